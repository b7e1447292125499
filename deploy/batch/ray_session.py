"""Ray sessions: connect to a cluster, or start a private local Ray for the duration of a job."""

import hashlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from deploy.batch.storage import BatchJobError, one_line

ROOT = Path(__file__).parent.parent.parent
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
JOB_ENV_VAR = "CAPTIONER_BATCH_JOB"  # set in every process of a local Ray; its value identifies the job
DASHBOARD_AGENT_PORT = "dashboard_agent_listen_port"
AGENT_PORTS = ("metrics_agent_port", "runtime_env_agent_port", DASHBOARD_AGENT_PORT)
PATCHED_VERSIONS = ("2.60.",)  # of Ray; add one after tests/unit/deploy/batch/test_ray_session.py passes with it
START_TIMEOUT = 180  # seconds per step of the start; an idle machine needs ten for all of them
READER_CPUS = 1  # CPUs of a task that reads and decodes images for GPU workers


def local_ray_env() -> dict[str, str]:
    """Return the environment variables of a local Ray: loopback only, a secret token, timeouts for a busy machine.

    Ray reads them when it is imported.
    """
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps Ray on loopback, also on Linux
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # otherwise Ray writes a token to the home directory
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_prestart_worker_first_driver": "0",  # idle workers would cost a quarter of the start-up time
        # How long the processes of Ray wait for one another. Each of them imports Ray, which takes two seconds of CPU
        # time, so that on a busy machine they are ready much later than Ray expects.
        "RAY_gcs_server_port_wait_time_s": str(START_TIMEOUT),
        "RAY_raylet_start_wait_time_s": str(START_TIMEOUT),
        "RAY_agent_register_timeout_ms": str(1000 * START_TIMEOUT),
        "RAY_worker_register_timeout_seconds": str(START_TIMEOUT),
    }


@contextmanager
def ray_session(address: str | None, cpus: int, output: str) -> Iterator[None]:
    """Connect to a Ray cluster, or run a local Ray, while the block runs.

    Args:
        address: Address of the cluster; None starts a local Ray in a private directory.
        cpus: Number of CPUs that the job needs.
        output: Output URI of the job, which identifies the job.

    Raises:
        BatchJobError: If the cluster does not respond or is too small, or the local Ray does not start.
    """
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"} | ({} if address else local_ray_env())
    import ray

    job = hashlib.sha256(output.encode()).hexdigest()[:8]
    try:
        try:
            if address:
                _connect(address)
            else:
                _start(job, cpus)
        except Exception as error:  # Ray raises exceptions of any type
            raise BatchJobError(f"Ray does not {'answer' if address else 'start'}: {one_line(error)}.") from error
        available = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        if available < cpus:
            raise BatchJobError(
                f"The job needs {cpus} CPUs and the cluster has {available}: use fewer workers or threads."
            )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the handler of Ray exits without a message
        yield
    finally:
        ray.shutdown()
        if not address:
            remove_leftovers(job)


def _connect(address: str) -> None:
    import ray

    if address != "auto" and "://" not in address:  # fail at once: Ray would retry for minutes
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()
    code = {"py_modules": [str(ROOT / "handler"), str(ROOT / "deploy")]}  # the nodes of the cluster need no checkout
    ray.init(address, runtime_env=code, **QUIET)


def _start(job: str, cpus: int) -> None:
    import ray

    # Not at the top: cluster nodes import this module, too, and lack what `deploy.isolated_server` imports.
    from deploy.isolated_server import free_ports

    os.environ[JOB_ENV_VAR] = job
    remove_leftovers(job)  # of a job that was killed
    directory = Path(tempfile.mkdtemp(prefix=f"captioner-{job}-"))
    metrics_export, *agents = free_ports(1 + len(AGENT_PORTS))
    with _patched_ray(dict(zip(AGENT_PORTS, agents, strict=True))):
        ray.init(
            "local",
            num_cpus=max(cpus, os.cpu_count() or 1),
            include_dashboard=False,
            _metrics_export_port=metrics_export,
            _temp_dir=str(directory / "r"),  # below, as Ray makes it public; short, as socket paths are limited
            _system_config={"enable_metrics_collection": False},  # the metrics exporter would listen on all interfaces
            **QUIET,
        )


@contextmanager
def _patched_ray(agent_ports: dict[str, int]) -> Iterator[None]:
    """Start a local Ray without the waiting times and processes that it does not need, for which it has no options.

    - Ports of the agents. The raylet starts two agents and needs their ports. It reads ports that are not set from
      files that the agents write after they have imported Ray. If a file is missing after 15 seconds, which cannot be
      configured, the raylet aborts; this happens on a busy machine. Fixed ports need no files. `ray.init` cannot set
      them, and Ray 2.60 never passes the port of the dashboard agent to the raylet.
    - The autoscaler monitor, the log monitor, which has nothing to do without `log_to_driver`, and the dashboard,
      which serves nothing with `include_dashboard=False`. Each is a process that imports Ray during the start, and the
      start waits for the dashboard.

    All are set through private names of Ray, so only in the versions that this was tested with. Other versions start as
    they do by default.

    Args:
        agent_ports: Port by name in `AGENT_PORTS`.
    """
    if not import_module("ray").__version__.startswith(PATCHED_VERSIONS):
        yield
        return
    parameter: Any = import_module("ray._private.parameter")
    services: Any = import_module("ray._private.services")
    raylet = import_module("ray._private.ray_constants").PROCESS_TYPE_RAYLET
    ray_params = parameter.RayParams
    start_process, start_dashboard = services.start_ray_process, services.start_api_server
    flags = [f"--{DASHBOARD_AGENT_PORT}={agent_ports[DASHBOARD_AGENT_PORT]}"]

    def start_with_flags(command: list[str], process_type: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Ray's
        return start_process(command + flags if process_type == raylet else command, process_type, *args, **kwargs)

    def start_no_dashboard(*_: object, **__: object) -> tuple[str, None]:
        return "", None  # its URL and its process

    parameter.RayParams = partial(ray_params, **agent_ports, no_monitor=True, include_log_monitor=False)
    services.start_ray_process, services.start_api_server = start_with_flags, start_no_dashboard
    try:
        yield
    finally:
        parameter.RayParams = ray_params
        services.start_ray_process, services.start_api_server = start_process, start_dashboard


def remove_leftovers(job: str) -> None:
    """Kill the processes of the local Ray of a job, some of which survive it for minutes, and remove its directory."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(JOB_ENV_VAR) == job:
                process.kill()
        except psutil.Error:  # it has ended, or belongs to another user
            continue
    for directory in Path(tempfile.gettempdir()).glob(f"captioner-{job}-*"):
        shutil.rmtree(directory, ignore_errors=True)

"""Ray: a cluster's, or one of the job's own that nobody else can reach."""

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
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from deploy.batch.storage import BatchJobError, in_a_line
from deploy.ports import free_ports

ROOT = Path(__file__).parent.parent.parent
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
MARK = "CAPTIONER_BULK"  # which job a process belongs to, in its environment
AGENT_PORTS = ("metrics_agent_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
START_SECONDS = 60  # for Ray to start in: ten where nothing else runs; its own 30 are too few on a busy machine
TRIES = 5
READER_CPUS = 1  # of a task that reads and decodes beside GPUs


def own_settings() -> dict[str, str]:
    """The environment of a Ray of the job's own: on loopback, with a token of its own; Ray reads it when imported."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what keeps it on loopback, on Linux too
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else it writes one into the home folder, for all to read
        "RAY_BACKEND_LOG_LEVEL": "fatal",  # of Ray's core, which speaks of its own affairs
        "RAY_raylet_start_wait_time_s": str(START_SECONDS),
        "RAY_prestart_worker_first_driver": "0",  # processes that nobody may want, at a quarter of the start's time
    }


@contextmanager
def running_ray(address: str | None, cpus: int, output: str) -> Iterator[None]:
    """Connects to a cluster, or starts a Ray for as long as it is needed.

    Args:
        address: the cluster's; None starts one here, with its files in a private folder.
        cpus: that the job needs.
        output: where the job writes, which tells it from others. Nobody else writes there.

    Raises:
        BatchJobError: there is no such cluster, it is too small, or Ray does not start.
    """
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"} | ({} if address else own_settings())
    import ray

    job = hashlib.sha256(output.encode()).hexdigest()[:8]
    try:
        try:
            _connect(address) if address else _start(job, cpus)
        except Exception as error:  # Ray's own are of any kind
            raise BatchJobError(f"Ray does not {'answer' if address else 'start'}: {in_a_line(error)}.") from error
        there = int(ray.cluster_resources().get("CPU", 0))
        if there < cpus:
            raise BatchJobError(
                f"The job needs {cpus} CPUs and the cluster has {there}: take fewer workers or threads."
            )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own says nothing
        yield
    finally:
        ray.shutdown()
        if not address:
            remove_leftovers(job)


def _connect(address: str) -> None:
    import ray

    if address != "auto" and "://" not in address:  # Ray itself would try for minutes
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()
    code = {"py_modules": [str(ROOT / "handler"), str(ROOT / "deploy")]}  # its machines need no checkout
    ray.init(address, runtime_env=code, **QUIET)


def _start(job: str, cpus: int) -> None:
    os.environ[MARK] = job
    for left in reversed(range(TRIES)):
        remove_leftovers(job)  # of one that was killed, or of the last try
        try:
            return _start_once(Path(tempfile.mkdtemp(prefix=f"captioner-{job}-")), cpus)
        except Exception:
            if not left:
                raise


def _start_once(folder: Path, cpus: int) -> None:
    import ray
    from ray._private import parameter

    # Where Ray chooses these itself, it waits 15 seconds for its agents to say which, and gives up on a busy machine.
    export, *others = free_ports(1 + len(AGENT_PORTS))
    chosen = partial(parameter.RayParams, **dict(zip(AGENT_PORTS, others, strict=True)))
    with patch.object(parameter, "RayParams", chosen):  # `init` has no such options
        ray.init(
            "local",
            num_cpus=max(cpus, os.cpu_count() or 1),
            include_dashboard=False,
            _metrics_export_port=export,
            _temp_dir=str(folder / "r"),  # below it: Ray opens its own to all; and short, as sockets' paths must be
            _system_config={"enable_metrics_collection": False},  # its exporter would listen to all
            **QUIET,
        )


def remove_leftovers(job: str) -> None:
    """Ends the processes of a job's Ray, some of which live on for minutes, and removes its folder."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == job:
                process.kill()
        except psutil.Error:  # ended meanwhile, or another user's
            continue
    for folder in Path(tempfile.gettempdir()).glob(f"captioner-{job}-*"):
        shutil.rmtree(folder, ignore_errors=True)

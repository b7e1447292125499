"""Start, query and stop one TorchServe instance, without leaving processes or files behind."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import requests
from ts.model_server import load_properties  # type: ignore[import-untyped]

from eval.files import file_lock  # the container image has these two modules of eval, and no handler
from eval.java import ensure_java

MODEL = "captioner"
KEY_FILE = "key_file.json"  # TorchServe writes its tokens to this file in its working directory
JVM_CLASS = "org.pytorch.serve.ModelServer"  # in the command line of the JVM
WORKER_SCRIPT = "model_service_worker.py"  # in the command line of a worker
ERROR_PATTERN = re.compile(r"MODEL_LOG - (?:\w+\.)*\w+(?:Error|Exception): (.+)")  # last line of a traceback
ERROR_LOG_SECONDS = 5  # TorchServe logs the traceback a moment after the worker died
START_SECONDS = 180  # a cold disk has to read PyTorch; a dead worker is noticed at once
DEFAULTS = {
    "inference_address": "http://127.0.0.1:8080",
    "management_address": "http://127.0.0.1:8081",
    "metrics_address": "http://127.0.0.1:8082",
    "grpc_inference_address": "127.0.0.1",
    "grpc_inference_port": "7070",
    "grpc_management_address": "127.0.0.1",
    "grpc_management_port": "7071",
    "model_store": "model_store",
    "load_models": f"{MODEL}.mar",
}


class ServerError(Exception):
    """The server cannot be started. The message is one sentence, followed by the log tail if there is one."""


class TorchServe:
    """A TorchServe instance of this checkout.

    TorchServe keeps its PID file and sockets in its temporary directory. The name of this directory is derived from
    the path of the configuration, so that several instances on one machine do not collide. Every process of an
    instance has the directory in its command line, which is how `processes` finds them.

    Args:
        config: TorchServe properties; ports, `model_store` and `load_models` are read from there.
        root: Working directory of TorchServe; `model_store` may be relative to it.
        logs: Log directory.
        log_config: log4j2 configuration. With one, TorchServe inherits stdout and stderr of this process.

    Raises:
        ServerError: If the configuration is missing.
    """

    def __init__(self, config: Path, root: Path, logs: Path, log_config: Path | None = None) -> None:
        if not config.is_file():
            raise ServerError(f"{config} is missing: it has to hold TorchServe's properties.")
        self.config, self.root, self.logs = config.resolve(), root.resolve(), logs.resolve()
        self.log_config = log_config
        self.properties: dict[str, str] = DEFAULTS | load_properties(str(config))
        model_store = self.root / self.properties["model_store"]
        self.archives: list[Path] = [model_store / name.strip() for name in self.properties["load_models"].split(",")]
        digest = hashlib.sha256(str(self.config).encode()).hexdigest()[:8]
        # Outside the checkout, because the path of a Unix socket is limited to 108 bytes.
        self.temp_dir = Path(tempfile.gettempdir(), f"captioner-{os.getuid()}-{digest}")
        self.http = requests.Session()
        self.http.trust_env = False  # a system-wide proxy must not receive requests to loopback

    @property
    def archive(self) -> Path:
        """Archive of the default version, i.e. the first one that is served."""
        return self.archives[0]

    @property
    def inference(self) -> str:
        """URL of the inference API."""
        return self.properties["inference_address"]

    @property
    def management(self) -> str:
        """URL of the management API."""
        return self.properties["management_address"]

    @property
    def metrics(self) -> str:
        """URL of the metrics API."""
        return self.properties["metrics_address"]

    @property
    def grpc(self) -> str:
        """Host and port of gRPC inference."""
        return f"{self.properties['grpc_inference_address']}:{self.properties['grpc_inference_port']}"

    @property
    def grpc_management(self) -> str:
        """Host and port of gRPC management."""
        return f"{self.properties['grpc_management_address']}:{self.properties['grpc_management_port']}"

    def start(self) -> None:
        """Start the server and wait until a worker of every version is READY.

        A server that already serves these archives with this configuration is left running.

        Raises:
            ServerError: If an archive is missing or damaged, a port is in use, or the server or a worker does not
                start. No process is left running then.
        """
        for archive in self.archives:
            _check_archive(archive)
        with self._lock():
            self._start()

    def _start(self) -> None:
        served = self.temp_dir / "served.sha256"
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in [*self.archives, self.config])).hexdigest()
        if self.processes():
            if self.ready() and served.exists() and served.read_text() == digest:
                return
            self._stop()  # it serves another archive or configuration, or only some of its processes are alive
        self._check_ports()
        self._make_temp_dir()
        self.logs.mkdir(parents=True, exist_ok=True)
        for log in self.logs.glob("*.log"):
            log.unlink()
        ensure_java()
        self._launch()
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        served.write_text(digest)

    def _launch(self) -> None:
        environment = os.environ | {
            "TS_CONFIG_FILE": str(self.config),
            "TMPDIR": str(self.temp_dir),
            "TEMP": str(self.temp_dir),
            "LOG_LOCATION": str(self.logs),
            "METRICS_LOCATION": str(self.logs),
        }
        command = [str(Path(sys.executable).parent / "torchserve"), "--start", "--ncs"]
        command += ["--model-store", str(self.archive.parent), "--models"]
        command += [archive.name for archive in self.archives]
        if self.log_config:
            command += ["--log-config", str(self.log_config)]
        # Output goes to a file: TorchServe would keep the terminal or pipe of the caller open.
        with nullcontext() if self.log_config else (self.logs / "console.log").open("w") as console:
            subprocess.run(
                command,
                cwd=self.root,
                env=environment,
                stdout=console,
                stderr=console,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must reach only the caller, which then stops the server
                check=False,  # a failed start is reported by _wait_until_ready, with the log tail
            )

    def stop(self) -> bool:
        """End all processes of the server and remove its temporary directory.

        The JVM is terminated first; it ends its workers.

        Returns:
            True if a process was running.
        """
        with self._lock():
            return self._stop()

    def _stop(self) -> bool:
        processes = self.processes()
        for process in processes:
            if is_jvm(process):
                process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=20)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=10)
        shutil.rmtree(self.temp_dir, ignore_errors=True)
        return bool(processes)

    def processes(self) -> list[psutil.Process]:
        """Find the running JVM and workers of this server."""
        processes = []
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
            except psutil.Error:  # it has ended, or belongs to another user
                continue
            is_torchserve = JVM_CLASS in command or any(argument.endswith(WORKER_SCRIPT) for argument in command)
            if is_torchserve and any(str(self.temp_dir) in argument for argument in command):
                processes.append(process)
        return processes

    def running(self) -> bool:
        """Return True if the JVM, i.e. TorchServe itself, is running."""
        return any(is_jvm(process) for process in self.processes())

    def ready(self) -> bool:
        """Return True if a worker of every version is READY.

        The management API is asked, because `/ping` answers "Healthy" while workers are still loading.
        """
        try:
            headers = self.authorization("management")
            models = self.http.get(f"{self.management}/models/{MODEL}/all", headers=headers, timeout=5).json()
            ready = [any(worker["status"] == "READY" for worker in model["workers"]) for model in models]
            return len(ready) == len(self.archives) and all(ready)
        except (requests.RequestException, OSError, ValueError, KeyError, TypeError):
            return False

    def authorization(self, api: str) -> dict[str, str]:
        """Return the Authorization header for an API; empty if token authorization is off.

        Args:
            api: `inference` or `management`.

        Raises:
            OSError: If TorchServe has not written its key file.
            ValueError: If the key file is incomplete.
            KeyError: If the key file is incomplete.
        """
        if self.properties.get("disable_token_authorization") == "true":
            return {}
        keys = json.loads((self.root / KEY_FILE).read_text(encoding="utf-8"))
        return {"Authorization": f"Bearer {keys[api]['key']}"}

    def caption(self, image: Path) -> dict[str, Any]:
        """Caption an image file and return the response.

        Raises:
            ServerError: If the endpoint does not respond or responds with an error.
        """
        try:
            url, headers = f"{self.inference}/predictions/{MODEL}", self.authorization("inference")
            response = self.http.post(url, data=image.read_bytes(), headers=headers, timeout=60)
            response.raise_for_status()
            content: dict[str, Any] = response.json()
        except requests.RequestException as error:
            raise ServerError(f"The endpoint did not caption {image}: {error}.\n{self.log_tail()}") from error
        return content

    def log_tail(self, count: int = 15) -> str:
        """Return the last lines of the logs that show why a server did not start."""
        tails = []
        for name in ("console.log", "ts_log.log", "model_log.log"):
            log = self.logs / name
            if log.is_file() and (lines := log.read_text(errors="replace").splitlines()):
                tails.append("\n".join([f"--- {log}", *lines[-count:]]))
        return "\n".join(tails)

    def _worker_error(self) -> str:
        """Return the message of the last traceback of a worker; empty if there is none."""
        deadline = time.monotonic() + ERROR_LOG_SECONDS
        logs = [self.logs / name for name in ("model_log.log", "ts_log.log")]  # in production only the latter exists
        while True:
            texts = [log.read_text(errors="replace") for log in logs if log.is_file()]
            errors: list[str] = [error for text in texts for error in ERROR_PATTERN.findall(text)]
            if errors or time.monotonic() > deadline:
                return errors[-1] if errors else ""
            time.sleep(0.1)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Serialize starts and stops of this server across processes."""
        with file_lock(self.temp_dir.with_suffix(".lock"), wait=True):
            yield

    def _check_ports(self) -> None:
        grpc = (f"//{self.grpc}", f"//{self.grpc_management}")
        for address in (self.inference, self.management, self.metrics, *grpc):
            try:
                host, port = urlsplit(address).hostname, urlsplit(address).port
            except ValueError:  # not a number, or above 65535
                host, port = None, None
            if host is None or port is None:
                raise ServerError(f"'{address.removeprefix('//')}' in {self.config} is not an address with a port.")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        reason = f"Port {port} is taken by another program: stop that one, or change the port in"
                    else:
                        reason = f"No server can listen on {host}:{port} ({error.strerror}): change the address in"
                    raise ServerError(f"{reason} {self.config}.") from error

    def _make_temp_dir(self) -> None:
        shutil.rmtree(self.temp_dir, ignore_errors=True)
        try:
            self.temp_dir.mkdir(mode=0o700, parents=True)
        except OSError as error:  # the parent is writable for all, so the directory may belong to another user
            raise ServerError(f"{self.temp_dir} cannot be created: {error.strerror}.") from error

    def _wait_until_ready(self) -> None:
        """Wait for READY workers.

        Raises:
            ServerError: If the JVM or a worker dies, or START_SECONDS have passed.
        """
        server_log, deadline = self.logs / "ts_log.log", time.monotonic() + START_SECONDS
        while not self.ready():
            if not self.running():
                raise ServerError(f"TorchServe did not come up.\n{self.log_tail()}")
            # TorchServe restarts a worker that cannot load for ever, and requests would hang meanwhile.
            if server_log.exists() and "Backend worker process died" in server_log.read_text(errors="replace"):
                error = self._worker_error()
                reason = f": {error}" if error else "."
                raise ServerError(f"TorchServe's worker could not load the model{reason}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"No worker was ready after {START_SECONDS} seconds.\n{self.log_tail()}")
            time.sleep(0.3)


def is_jvm(process: psutil.Process) -> bool:
    """Return True if a process is the JVM of TorchServe, False for a worker."""
    try:
        return JVM_CLASS in process.cmdline()
    except psutil.Error:
        return False


def _check_archive(archive: Path) -> None:
    """Verify the checksums of an archive.

    TorchServe would restart its worker for ever on a damaged archive and log only a secondary error.

    Raises:
        ServerError: If the archive is missing, truncated or damaged.
    """
    if not archive.is_file():
        raise ServerError(f"{archive} is missing: run 'make archive' first.")
    try:
        with zipfile.ZipFile(archive) as file:
            damaged = file.testzip()
    except Exception as error:  # zipfile raises whatever the damage causes
        raise ServerError(f"{archive} is not a complete archive ({error}): run 'make archive' again.") from error
    if damaged:
        raise ServerError(f"{archive} is damaged, in {damaged}: run 'make archive' again.")

"""One TorchServe with the archive in it: started, waited for, asked, stopped, with nothing left behind."""

import errno
import fcntl
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
from ts.model_server import load_properties

from eval.java import ensure_java

MODEL = "captioner"
KEYS = "key_file.json"  # TorchServe writes its tokens there, in the folder it runs in
JVM, WORKER = "org.pytorch.serve.ModelServer", "model_service_worker.py"  # what their command lines name
REASON = re.compile(r"MODEL_LOG - (?:\w+\.)*\w+(?:Error|Exception): (.+)")  # a traceback's last line
REASON_SECONDS = 5
START_SECONDS = 180  # a cold disk has to read torch; a worker that dies is noticed at once
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
    """The server can't be started; the message is one clear sentence, with the log's last lines where there are any."""


class TorchServe:
    """A TorchServe of this checkout.

    Its temporary folder has a name made from the checkout's and the configuration's path: TorchServe keeps its pid file
    and sockets there, so that several servers on a machine do not meet. Every process of the server names that
    folder in its command line, which is how they are found again.

    Args:
        config: TorchServe's properties; its ports, `model_store` and `load_models` are read from there.
        root: the folder TorchServe runs in; `model_store` may be relative to it.
        logs: where it logs.
        log_config: log4j2's configuration; with one, what TorchServe prints goes where this process's output goes.

    Raises:
        ServerError: there is no such configuration.
    """

    def __init__(self, config: Path, root: Path, logs: Path, log_config: Path | None = None):
        if not config.is_file():
            raise ServerError(f"{config} is missing: it has to hold TorchServe's properties.")
        self.config, self.root, self.logs = config.resolve(), root.resolve(), logs.resolve()
        self.log_config = log_config
        self.properties = DEFAULTS | load_properties(str(config))
        store = self.root / self.properties["model_store"]
        self.archives = [store / name.strip() for name in self.properties["load_models"].split(",")]
        name = hashlib.sha256(str(self.config).encode()).hexdigest()[:8]
        # Not below the checkout: a socket's path must not be longer than 108 letters.
        self.folder = Path(tempfile.gettempdir(), f"captioner-{os.getuid()}-{name}")
        self.http = requests.Session()
        self.http.trust_env = False  # a proxy that the machine uses for the world has no business with loopback

    @property
    def archive(self) -> Path:
        """What it serves: of several versions side by side the first, which answers where none is named."""
        return self.archives[0]

    @property
    def inference(self) -> str:
        """URL of the inference address."""
        return self.properties["inference_address"]

    @property
    def management(self) -> str:
        """URL of the management address."""
        return self.properties["management_address"]

    @property
    def metrics(self) -> str:
        """URL of the metrics address."""
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
        """Starts the server and waits for READY workers; one that serves these archives already is left as it is.

        Raises:
            ServerError: no archive or a damaged one, a port taken, or a server or worker that does not come up; then
                nothing is left running.
        """
        for archive in self.archives:
            _check_archive(archive)
        with self._alone():
            self._start()

    def _start(self) -> None:
        served = self.folder / "served.sha256"
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in [*self.archives, self.config])).hexdigest()
        if self.processes():
            if self.ready() and served.exists() and served.read_text() == digest:
                return
            self._stop()  # another archive or configuration, or a server that is half dead
        self._check_ports()
        self._make_folder()
        self.logs.mkdir(parents=True, exist_ok=True)
        for log in self.logs.glob("*.log"):
            log.unlink()
        ensure_java()
        environment = os.environ | {
            "TS_CONFIG_FILE": str(self.config),
            "TMPDIR": str(self.folder),
            "TEMP": str(self.folder),
            "LOG_LOCATION": str(self.logs),
            "METRICS_LOCATION": str(self.logs),
        }
        torchserve = Path(sys.executable).parent / "torchserve"
        command = [torchserve, "--start", "--ncs", "--model-store", self.archive.parent, "--models"]
        command += [archive.name for archive in self.archives]
        if self.log_config:
            command += ["--log-config", self.log_config]
        # What TorchServe prints has to go to a file: it would hold the caller's terminal or pipe open for ever.
        with nullcontext() if self.log_config else (self.logs / "console.log").open("w") as console:
            subprocess.run(
                command,
                cwd=self.root,
                env=environment,
                stdout=console,
                stderr=console,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the caller, which stops it in good order
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        served.write_text(digest)

    def stop(self) -> bool:
        """Ends every process of the server, the JVM first, which ends its workers, and removes its temporary folder.

        Returns:
            Whether there was a process to end.
        """
        with self._alone():
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
        shutil.rmtree(self.folder, ignore_errors=True)
        return bool(processes)

    def processes(self) -> list[psutil.Process]:
        """The server's JVM and workers that are running."""
        found = []
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                of_torchserve = JVM in command or any(argument.endswith(WORKER) for argument in command)
                if of_torchserve and any(str(self.folder) in argument for argument in command):
                    found.append(process)
            except psutil.Error:  # ended meanwhile, or another user's
                continue
        return found

    def running(self) -> bool:
        """Whether the JVM runs, which is TorchServe itself."""
        return any(is_jvm(process) for process in self.processes())

    def ready(self) -> bool:
        """Whether a worker of each version is READY: the management API's word, as `/ping` answers long before."""
        try:
            headers = self.authorization("management")
            described = self.http.get(f"{self.management}/models/{MODEL}/all", headers=headers, timeout=5).json()
            ready = [any(worker["status"] == "READY" for worker in model["workers"]) for model in described]
            return len(ready) == len(self.archives) and all(ready)
        except (requests.RequestException, OSError, ValueError, KeyError, TypeError):
            return False

    def authorization(self, api: str) -> dict[str, str]:
        """The header that an API, `inference` or `management`, wants; none where token authorization is off.

        Raises:
            OSError: TorchServe has not written its keys.
            ValueError: or not whole.
            KeyError: the same.
        """
        if self.properties.get("disable_token_authorization") == "true":
            return {}
        keys = json.loads((self.root / KEYS).read_text(encoding="utf-8"))
        return {"Authorization": f"Bearer {keys[api]['key']}"}

    def caption(self, picture: Path) -> dict[str, Any]:
        """The endpoint's answer for an image file.

        Raises:
            ServerError: the endpoint does not answer, or with an error.
        """
        try:
            url, headers = f"{self.inference}/predictions/{MODEL}", self.authorization("inference")
            answer = self.http.post(url, data=picture.read_bytes(), headers=headers, timeout=60)
            answer.raise_for_status()
            return answer.json()
        except requests.RequestException as error:
            raise ServerError(f"The endpoint did not caption {picture}: {error}.\n{self.last_lines()}") from error

    def last_lines(self, count: int = 15) -> str:
        """The ends of the logs that say why a server did not come up."""
        ends = []
        for name in ("console.log", "ts_log.log", "model_log.log"):
            log = self.logs / name
            if log.is_file() and (lines := log.read_text(errors="replace").splitlines()):
                ends.append("\n".join([f"--- {log}", *lines[-count:]]))
        return "\n".join(ends)

    def _reason(self) -> str:
        """What a dead worker's last traceback says; empty where there is none.

        TorchServe takes the worker's lines a little later than its death.
        """
        deadline = time.monotonic() + REASON_SECONDS
        logs = [self.logs / name for name in ("model_log.log", "ts_log.log")]  # in production there is the latter alone
        while True:
            found = [one for log in logs if log.is_file() for one in REASON.findall(log.read_text(errors="replace"))]
            if found or time.monotonic() > deadline:
                return found[-1] if found else ""
            time.sleep(0.1)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lets one caller at a time start or stop this server; the next one waits."""
        with self.folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _check_ports(self) -> None:
        grpc = (f"//{self.grpc}", f"//{self.grpc_management}")
        for address in (self.inference, self.management, self.metrics, *grpc):
            try:
                host, port = urlsplit(address).hostname, urlsplit(address).port
            except ValueError:  # no number, or one beyond all ports
                host, port = None, None
            if host is None or port is None:
                raise ServerError(f"'{address.removeprefix('//')}' in {self.config} is no address with a port.")
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

    def _make_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.mkdir(mode=0o700, parents=True)
        except OSError as error:  # in a folder that all can write to, it may be another's
            raise ServerError(f"{self.folder} can't be made: {error.strerror}.") from error

    def _wait(self) -> None:
        """Until a worker is READY.

        Raises:
            ServerError: the JVM or a worker died, or time is up.
        """
        server_log, deadline = self.logs / "ts_log.log", time.monotonic() + START_SECONDS
        while not self.ready():
            if not self.running():
                raise ServerError(f"TorchServe did not come up.\n{self.last_lines()}")
            # A worker that can't load is started again and again, and requests would hang meanwhile.
            if server_log.exists() and "Backend worker process died" in server_log.read_text(errors="replace"):
                reason = self._reason()
                said = f": {reason}" if reason else "."
                raise ServerError(f"TorchServe's worker could not load the model{said}\n{self.last_lines()}")
            if time.monotonic() > deadline:
                raise ServerError(f"No worker was ready after {START_SECONDS} seconds.\n{self.last_lines()}")
            time.sleep(0.3)


def is_jvm(process: psutil.Process) -> bool:
    """Whether a server's process is TorchServe itself, and no worker."""
    try:
        return JVM in process.cmdline()
    except psutil.Error:
        return False


def _check_archive(archive: Path) -> None:
    """Reads an archive through: TorchServe would say of a damaged one what its unpacking ran into, and crash-loop.

    Raises:
        ServerError: it is missing, cut off, or has bytes that it was not written with.
    """
    if not archive.is_file():
        raise ServerError(f"{archive} is missing: run 'make archive' first.")
    try:
        with zipfile.ZipFile(archive) as file:
            damaged = file.testzip()
    except Exception as error:  # zipfile answers damage with whatever it ran into
        raise ServerError(f"{archive} is no whole archive ({error}): run 'make archive' again.") from error
    if damaged:
        raise ServerError(f"{archive} is damaged, in {damaged}: run 'make archive' again.")

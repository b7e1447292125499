"""HAProxy before two servers, as haproxy.cfg has it: started, asked what it sees, told what to drain and to weigh."""

import csv
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from deploy.ports import free_ports
from deploy.torchserve import ServerError, TorchServe

CONFIG = Path(__file__).parent / "haproxy.cfg"
NAMES = ("one", "two")  # what haproxy.cfg calls the servers
BACKENDS = ("captioner", "captioner_grpc")
SYSTEM = "/usr/sbin"  # where Debian puts it, and which a user's PATH does not name


class Proxy:
    """An HAProxy on free ports of loopback.

    Args:
        servers: by their names in haproxy.cfg, `one` and `two`; of one that is left out nothing is there.
        log: the file for its log.
        settings: further environment variables of haproxy.cfg.

    Raises:
        ServerError: HAProxy is not installed.
    """

    def __init__(self, servers: Mapping[str, TorchServe], log: Path, **settings: str):
        program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}{os.pathsep}{SYSTEM}")
        if program is None:
            raise ServerError("HAProxy is missing: apt-get install haproxy.")
        self.program, self.log = program, log
        rest, grpc, metrics = (f"127.0.0.1:{port}" for port in free_ports(3))
        self.rest, self.grpc, self.metrics = f"http://{rest}", grpc, f"http://{metrics}"
        self.folder = tempfile.TemporaryDirectory(prefix="captioner-proxy-")  # a socket's path must not be long
        self.socket = Path(self.folder.name, "socket")
        self.environment = {
            "CAPTIONER_REST": rest,
            "CAPTIONER_GRPC": grpc,
            "CAPTIONER_PROXY_METRICS": metrics,
            "CAPTIONER_PROXY_SOCKET": str(self.socket),
        }
        for name in NAMES:
            rest, grpc, management = _addresses(servers.get(name))
            self.environment[f"CAPTIONER_{name.upper()}_REST"] = rest
            self.environment[f"CAPTIONER_{name.upper()}_GRPC"] = grpc
            self.environment[f"CAPTIONER_{name.upper()}_MANAGEMENT"] = management
        self.environment |= settings
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts it and waits until it takes orders.

        Raises:
            ServerError: it does not come up.
        """
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [self.program, "-db", "-f", CONFIG], env=os.environ | self.environment, stdout=log, stderr=log
            )
        self._wait(lambda: self.socket.exists(), "come up", 10)

    def stop(self) -> None:
        """Ends it at once."""
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=20)
        self.folder.cleanup()

    def order(self, command: str) -> str:
        """HAProxy's answer to a command of its runtime API.

        Raises:
            ServerError: it refused the command.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.socket))
            connection.sendall(command.encode() + b"\n")
            answer = b"".join(iter(lambda: connection.recv(65_536), b"")).decode().strip()
        if command.startswith("set ") and answer:
            raise ServerError(f"HAProxy did not take '{command}': {answer}")
        return answer

    def statistics(self, name: str, backend: str = "captioner") -> dict[str, str]:
        """What HAProxy counts of a server, or of a whole backend, where the name is `BACKEND`: its documented CSV."""
        rows = csv.DictReader(self.order("show stat").removeprefix("# ").splitlines())
        return next(row for row in rows if (row["pxname"], row["svname"]) == (backend, name))

    def up(self, name: str) -> bool:
        """Whether a server is given requests."""
        return self.statistics(name)["status"] == "UP"

    def ready(self, name: str) -> bool:
        """Whether a server's last check found a READY worker, though it may be drained."""
        seen = self.statistics(name)
        return seen["check_status"] == "L7OK" and not seen["status"].startswith("DOWN")

    def drain(self, name: str) -> None:
        """Sends a server no more requests, and waits until it has answered those it has, over REST and gRPC."""
        self.order(f"set server captioner/{name} state drain")
        idle = lambda: all(self.statistics(name, backend)["scur"] == "0" for backend in BACKENDS)  # noqa: E731
        self._wait(idle, f"drain server {name}", 120)

    def admit(self, name: str) -> None:
        """Sends a drained server requests again, once its check finds a READY worker."""
        self._wait(lambda: self.ready(name), f"find server {name} ready", 120)
        self.order(f"set server captioner/{name} state ready")
        self._wait(lambda: self.up(name), f"admit server {name}", 10)

    def weigh(self, **weights: int) -> None:
        """Shares out requests by weights of 0 to 256; a server of weight 0 gets none."""
        for name, weight in weights.items():
            for backend in BACKENDS:
                self.order(f"set server {backend}/{name} weight {weight}")

    def _wait(self, true: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if self.process.poll() is not None or time.monotonic() > deadline:
                end = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                raise ServerError(f"HAProxy did not {what} in {seconds:g} seconds.\n{end}")
            time.sleep(0.05)


def _addresses(server: TorchServe | None) -> tuple[str, str, str]:
    """Where a server answers over REST and gRPC, and its management port; of none, where nobody does."""
    if server is None:
        rest, grpc, management = free_ports(3)
        return f"127.0.0.1:{rest}", f"127.0.0.1:{grpc}", str(management)
    return urlsplit(server.inference).netloc, server.grpc, str(urlsplit(server.management).port)

"""Run HAProxy with haproxy.cfg in front of two servers: read its statistics, drain servers, set weights."""

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

from deploy.isolated_server import free_ports
from deploy.torchserve import ServerError, TorchServe

CONFIG = Path(__file__).parent / "haproxy.cfg"
NAMES = ("one", "two")  # names of the servers in haproxy.cfg
BACKENDS = ("captioner", "captioner_grpc")
SBIN = "/usr/sbin"  # Debian installs HAProxy here, outside the PATH of users


class Proxy:
    """An HAProxy process on free loopback ports.

    Args:
        servers: Servers by name in haproxy.cfg, `one` and `two`. A missing one gets addresses without a listener.
        log: Log file.
        settings: Further environment variables for haproxy.cfg.

    Raises:
        ServerError: If HAProxy is not installed.
    """

    def __init__(self, servers: Mapping[str, TorchServe], log: Path, **settings: str) -> None:
        program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}{os.pathsep}{SBIN}")
        if program is None:
            raise ServerError("HAProxy is missing: apt-get install haproxy.")
        self.program, self.log = program, log
        rest, grpc, metrics = (f"127.0.0.1:{port}" for port in free_ports(3))
        self.rest, self.grpc, self.metrics = f"http://{rest}", grpc, f"http://{metrics}"
        # Not below the log: the path of a Unix socket is limited to 108 bytes.
        self.directory = tempfile.TemporaryDirectory(prefix="captioner-proxy-")
        self.socket = Path(self.directory.name, "socket")
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
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start HAProxy and wait for its control socket.

        Raises:
            ServerError: If it does not start.
        """
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [self.program, "-db", "-f", CONFIG], env=os.environ | self.environment, stdout=log, stderr=log
            )
        self._wait(self.socket.exists, "start", 10)

    def stop(self) -> None:
        """End HAProxy at once."""
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=20)
        self.directory.cleanup()

    def run_command(self, command: str) -> str:
        """Send a command to the HAProxy runtime API and return its output.

        Raises:
            ServerError: If HAProxy rejects the command.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.socket))
            connection.sendall(command.encode() + b"\n")
            output = b"".join(iter(lambda: connection.recv(65_536), b"")).decode().strip()
        if command.startswith("set ") and output:
            raise ServerError(f"HAProxy rejected '{command}': {output}")
        return output

    def statistics(self, name: str, backend: str = "captioner") -> dict[str, str]:
        """Return the HAProxy statistics of a server; the name `BACKEND` selects the whole backend."""
        rows = csv.DictReader(self.run_command("show stat").removeprefix("# ").splitlines())
        return next(row for row in rows if (row["pxname"], row["svname"]) == (backend, name))

    def up(self, name: str) -> bool:
        """Return True if a server receives requests."""
        return self.statistics(name)["status"] == "UP"

    def ready(self, name: str) -> bool:
        """Return True if the last check of a server found a READY worker, even if the server is drained."""
        statistics = self.statistics(name)
        return statistics["check_status"] == "L7OK" and not statistics["status"].startswith("DOWN")

    def drain(self, name: str) -> None:
        """Stop sending requests to a server and wait for those in flight, over REST and gRPC."""

        def is_idle() -> bool:
            return all(self.statistics(name, backend)["scur"] == "0" for backend in BACKENDS)

        self.run_command(f"set server captioner/{name} state drain")
        self._wait(is_idle, f"drain server {name}", 120)

    def enable(self, name: str) -> None:
        """Send requests to a drained server again as soon as its check finds a READY worker."""
        self._wait(lambda: self.ready(name), f"find server {name} ready", 120)
        self.run_command(f"set server captioner/{name} state ready")
        self._wait(lambda: self.up(name), f"enable server {name}", 10)

    def set_weights(self, **weights: int) -> None:
        """Distribute requests by weights from 0 to 256; a server with weight 0 receives none."""
        for name, weight in weights.items():
            for backend in BACKENDS:
                self.run_command(f"set server {backend}/{name} weight {weight}")

    def _wait(self, condition: Callable[[], bool], action: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                raise ServerError(f"HAProxy did not {action} in {seconds:g} seconds.\n{tail}")
            time.sleep(0.05)


def _addresses(server: TorchServe | None) -> tuple[str, str, str]:
    """Return the REST address, gRPC address and management port; without a server, ones without a listener."""
    if server is None:
        rest, grpc, management = free_ports(3)
        return f"127.0.0.1:{rest}", f"127.0.0.1:{grpc}", str(management)
    return urlsplit(server.inference).netloc, server.grpc, str(urlsplit(server.management).port)

"""nginx gateway in front of TorchServe: TLS, client tokens, rate limits, draining."""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jinja2

from deploy.torchserve import ServerError, TorchServe

TEMPLATE = Path(__file__).parent / "nginx.conf.j2"
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{32,}=*")  # characters of RFC 6750; 32 of them cannot be guessed
REQUEST_TIMEOUT = 70  # seconds; TorchServe gives up on a worker after 60


class Gateway:
    """An nginx process that forwards client requests and serves readiness and metrics.

    Args:
        server: TorchServe behind the gateway.
        directory: Working directory of nginx; created if missing.
        listen: Address and port for clients.
        internal: Address and port of `/ready`, `/live` and `/metrics`.
        tls: Directory with `tls.crt` and `tls.key`; None serves plain HTTP behind a proxy that terminates TLS.
        tokens: File with one client token a line; None if a proxy authenticates the clients.

    Raises:
        ServerError: If the certificate or the tokens are missing or invalid.
    """

    def __init__(
        self, server: TorchServe, directory: Path, listen: str, internal: str, tls: Path | None, tokens: Path | None
    ) -> None:
        self.server, self.directory, self.listen, self.internal = server, directory.resolve(), listen, internal
        self.tls, self.tokens = tls and tls.absolute(), tokens  # not resolved: Kubernetes swaps symlinks on updates
        self.config = self.directory / "nginx.conf"
        self.process: subprocess.Popen[bytes] | None = None
        if tokens:
            _read_tokens(tokens)
        self.inputs_digest, self.last_error = self._digest_inputs(), ""

    def start(self) -> None:
        """Start nginx. TorchServe has to run already, because its token is read from its key file.

        Raises:
            ServerError: If nginx is missing or does not start.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.write()
        # A separate session: Ctrl-C must reach only this process, which drains before it ends nginx.
        self.process = subprocess.Popen(self._nginx(self.config), stdin=subprocess.DEVNULL, start_new_session=True)
        while not self._is_listening():
            if not self.running():
                raise ServerError(f"nginx could not start to listen on {self.listen} and {self.internal}.")
            time.sleep(0.05)

    def reload_if_changed(self) -> None:
        """Reload nginx if the certificate, its key or the tokens have changed; no request is lost.

        If nginx rejects the new files, the old configuration stays active and the error is printed once.
        """
        try:
            digest = self._digest_inputs()
            if digest == self.inputs_digest:
                return
            self.write()
        except ServerError as error:
            if str(error) != self.last_error:
                print(f"The gateway keeps its configuration. {error}", file=sys.stderr, flush=True)
            self.last_error = str(error)
        else:
            self.inputs_digest, self.last_error = digest, ""
            if self.process:
                self.process.send_signal(signal.SIGHUP)

    def set_ready(self, ready: bool) -> None:
        """Make `/ready` answer 200 or 503."""
        marker = self.directory / "ready"
        if ready:
            marker.write_text("ready\n")
        else:
            marker.unlink(missing_ok=True)

    def running(self) -> bool:
        """Return True if nginx is running."""
        return self.process is not None and self.process.poll() is None

    def drain(self, seconds: float = REQUEST_TIMEOUT) -> bool:
        """Close the listening sockets and wait until all requests in flight are answered.

        Returns:
            True if all were answered within `seconds`.
        """
        if self.process is None or not self.running():
            return False
        self.process.send_signal(signal.SIGQUIT)
        try:
            return self.process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return False

    def stop(self) -> None:
        """End nginx at once if it is running."""
        if self.process is None or not self.running():
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def write(self) -> None:
        """Write the nginx configuration after `nginx -t` has accepted it.

        Raises:
            ServerError: If nginx rejects the configuration or is missing.
        """
        properties = self.server.properties
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - not HTML
        text = environment.from_string(TEMPLATE.read_text()).render(
            directory=self.directory,
            listen=self.listen,
            internal=self.internal,
            certificate=self.tls and self.tls / "tls.crt",
            key=self.tls and self.tls / "tls.key",
            tokens=[re.escape(token) for token in _read_tokens(self.tokens)] if self.tokens else [],
            max_bytes=properties["max_request_size"],
            inference=self.server.inference,
            metrics=self.server.metrics,
            grpc=self.server.grpc,
            authorization=self.server.authorization("inference").get("Authorization", ""),
            seconds=REQUEST_TIMEOUT,
        )
        candidate = self.config.with_suffix(".new")
        candidate.touch(mode=0o600)
        candidate.write_text(text)
        check = subprocess.run([*self._nginx(candidate), "-t"], capture_output=True, text=True, check=False)
        if check.returncode:
            raise ServerError(f"nginx rejects its configuration:\n{check.stderr.strip()}")
        candidate.replace(self.config)

    def _nginx(self, config: Path) -> list[str]:
        nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
        if nginx is None:
            raise ServerError("nginx is missing: install it, the gateway needs it.")
        return [nginx, "-e", "stderr", "-p", str(self.directory), "-c", str(config)]

    def _is_listening(self) -> bool:
        host, _, port = self.internal.rpartition(":")
        with socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET) as probe:
            return probe.connect_ex((host.strip("[]"), int(port))) == 0

    def _digest_inputs(self) -> str:
        """Hash the files that may change while nginx runs: certificate, key and tokens."""
        paths = [self.tls / "tls.crt", self.tls / "tls.key"] if self.tls else []
        if self.tokens:
            paths.append(self.tokens)
        try:
            return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()
        except OSError as error:
            message = f"{error.filename} cannot be read ({error.strerror}): it has to hold the certificate or its key."
            raise ServerError(message) from error


def _read_tokens(path: Path) -> list[str]:
    """Read a token file; lines that start with # are comments."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"{path} cannot be read: it has to hold the clients' tokens, one a line.") from error
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise ServerError(f"{path} holds no token: every request would be refused.")
    for number, line in enumerate(lines, 1):
        if line in tokens and not TOKEN.fullmatch(line):
            raise ServerError(f"Line {number} of {path} is no token: use 32 or more of A-Z a-z 0-9 . _ ~ + / -")
    return tokens

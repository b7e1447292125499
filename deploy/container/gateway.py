"""The gateway: nginx before TorchServe on the same machine. It does TLS, knows the clients' tokens, and drains."""

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
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{32,}=*")  # RFC 6750's letters, and long enough not to be guessed
ANSWER_SECONDS = 70  # TorchServe gives up on a worker after 60


class Gateway:
    """An nginx that passes on what clients may ask, and tells probes and Prometheus how it goes.

    Args:
        server: the TorchServe behind it.
        folder: its own, to write to; made where it is missing.
        listen: address and port for clients.
        inside: address and port of `/ready`, `/live` and `/metrics`.
        tls: a folder with `tls.crt` and `tls.key`; None for plain HTTP, where a proxy before this one does TLS.
        tokens: a file with the clients' tokens, one a line; None where a proxy before this one knows its clients.

    Raises:
        ServerError: the certificate or the tokens are missing or can't be.
    """

    def __init__(
        self, server: TorchServe, folder: Path, listen: str, inside: str, tls: Path | None, tokens: Path | None
    ):
        self.server, self.folder, self.listen, self.inside = server, folder.resolve(), listen, inside
        self.tls, self.tokens = tls and tls.absolute(), tokens  # not resolved: Kubernetes changes where links lead
        self.config = self.folder / "nginx.conf"
        self.process: subprocess.Popen | None = None
        if tokens:
            _tokens(tokens)
        self.inputs, self.complaint = self._inputs(), ""

    def start(self) -> None:
        """Starts it. TorchServe has to run, as its token is in its key file.

        Raises:
            ServerError: nginx is missing, or says why it does not start.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.write()
        # A session of its own: Ctrl-C is for this process, which drains before it ends nginx.
        self.process = subprocess.Popen(self._nginx(self.config), stdin=subprocess.DEVNULL, start_new_session=True)
        while not self._listens():
            if not self.running():
                raise ServerError(f"nginx could not start to listen on {self.listen} and {self.inside}.")
            time.sleep(0.05)

    def refresh(self) -> None:
        """Takes over a certificate or tokens that have changed, without a request lost.

        What nginx does not take it leaves alone, and says so once.
        """
        try:
            inputs = self._inputs()
            if inputs == self.inputs:
                return
            self.write()
        except ServerError as error:
            if str(error) != self.complaint:
                print(f"The gateway goes on as it was. {error}", file=sys.stderr, flush=True)
            self.complaint = str(error)
        else:
            self.inputs, self.complaint = inputs, ""
            self.process.send_signal(signal.SIGHUP)

    def announce(self, ready: bool) -> None:
        """Has `/ready` answer 200 or 503."""
        mark = self.folder / "ready"
        mark.write_text("ready\n") if ready else mark.unlink(missing_ok=True)

    def running(self) -> bool:
        """Whether nginx runs."""
        return self.process is not None and self.process.poll() is None

    def drain(self, seconds: float = ANSWER_SECONDS) -> bool:
        """Takes no more connections and waits until each request in flight is answered.

        Returns:
            Whether all were answered in so many seconds.
        """
        if not self.running():
            return False
        self.process.send_signal(signal.SIGQUIT)
        try:
            return self.process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return False

    def stop(self) -> None:
        """Ends it at once, where it still runs."""
        if self.running():
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def write(self) -> None:
        """Writes nginx's configuration, once nginx has taken it.

        Raises:
            ServerError: nginx does not take it, or is missing.
        """
        properties = self.server.properties
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - no HTML
        text = environment.from_string(TEMPLATE.read_text()).render(
            folder=self.folder,
            listen=self.listen,
            inside=self.inside,
            certificate=self.tls and self.tls / "tls.crt",
            key=self.tls and self.tls / "tls.key",
            tokens=[re.escape(token) for token in _tokens(self.tokens)] if self.tokens else [],
            max_bytes=properties["max_request_size"],
            inference=self.server.inference,
            metrics=self.server.metrics,
            grpc=self.server.grpc,
            authorization=self.server.authorization("inference").get("Authorization", ""),
            seconds=ANSWER_SECONDS,
        )
        written = self.config.with_suffix(".new")
        written.touch(mode=0o600)
        written.write_text(text)
        check = subprocess.run([*self._nginx(written), "-t"], capture_output=True, text=True)
        if check.returncode:
            raise ServerError(f"nginx does not take its configuration:\n{check.stderr.strip()}")
        os.replace(written, self.config)

    def _nginx(self, config: Path) -> list[str]:
        nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
        if nginx is None:
            raise ServerError("nginx is missing: install it, it is the gateway.")
        return [nginx, "-e", "stderr", "-p", str(self.folder), "-c", str(config)]

    def _listens(self) -> bool:
        host, _, port = self.inside.rpartition(":")
        with socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET) as probe:
            return probe.connect_ex((host.strip("[]"), int(port))) == 0

    def _inputs(self) -> str:
        """A digest of what may change while it runs: certificate, key and tokens."""
        paths = [self.tls / "tls.crt", self.tls / "tls.key"] if self.tls else []
        if self.tokens:
            paths.append(self.tokens)
        try:
            return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()
        except OSError as error:
            message = f"{error.filename} can't be read ({error.strerror}): it has to hold the certificate or its key."
            raise ServerError(message) from error


def _tokens(path: Path) -> list[str]:
    """The tokens of a file, one a line; lines that begin with # are remarks."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"{path} can't be read: it has to hold the clients' tokens, one a line.") from error
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise ServerError(f"{path} holds no token: nobody could ask.")
    for number, line in enumerate(lines, 1):
        if line in tokens and not TOKEN.fullmatch(line):
            raise ServerError(f"Line {number} of {path} is no token: 32 or more of A-Z a-z 0-9 . _ ~ + / - are.")
    return tokens

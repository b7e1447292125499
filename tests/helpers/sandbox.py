"""A container without an engine: the layout of the image, /tmp alone writable, no capabilities, its own PID 1."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import requests

from deploy.isolated_server import free_ports, isolated_server
from tests.helpers.commands import require_program
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.polling import eventually

USER = 10001
TOKEN = "a-token.of_two~and+thirty/letters-or-more="  # noqa: S105


class Sandbox:
    """`deploy.container.entrypoint` in bubblewrap, with the layout and the user of `deploy/container/Dockerfile`.

    Attributes:
        url: URL of the gateway.
        http: Session that trusts the certificate and sends the token.
        internal: URL of `/ready`, `/live` and `/metrics`.
        server: Addresses of the TorchServe internal.
        process: The bubblewrap process.
    """

    def __init__(self, directory: Path, store: Path, *arguments: str, **properties: str):
        self.directory, self.arguments = directory, arguments
        self.store, self.tls, self.tokens = store, directory / "tls", directory / "tokens"
        listen, internal = free_ports(2)
        self.address, self.internal = f"127.0.0.1:{listen}", f"http://127.0.0.1:{internal}"
        self.url = f"https://{self.address}"
        template = ROOT / "deploy" / "container" / "config.properties"
        # The archive's directory in the image is named there.
        self.server = isolated_server(directory, Path("/opt/captioner/model_store"), template=template, **properties)
        make_certificate(self.tls)
        self.tokens.mkdir()
        self.set_tokens(TOKEN)
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.verify = str(self.tls / "tls.crt")
        self.http.headers["Authorization"] = f"Bearer {TOKEN}"

    def set_tokens(self, *tokens: str) -> None:
        (self.tokens / "tokens").write_text("# clients\n" + "".join(f"{token}\n" for token in tokens))

    def command(self) -> list[str]:
        read_only = {path: path for path in [Path("/usr"), *Path("/etc").iterdir(), Path(sys.base_prefix)]}
        environment = Path(sys.prefix).resolve()
        read_only[environment] = environment
        read_only |= {
            ROOT / "deploy": Path("/opt/captioner/deploy"),
            ROOT / "eval": Path("/opt/captioner/eval"),
            self.store: Path("/opt/captioner/model_store"),
            self.server.config: Path("/opt/captioner/config.properties"),
            self.tls: Path("/etc/captioner/tls"),
            self.tokens: Path("/etc/captioner/tokens"),
        }
        parents = sorted({parent for target in read_only.values() for parent in target.parents[:-1]})
        binds = [word for parent in parents for word in ("--dir", str(parent))]  # else they are root's alone
        binds += [word for source, target in read_only.items() for word in ("--ro-bind", str(source), str(target))]
        links = [word for name in ("bin", "lib", "lib64", "sbin") for word in ("--symlink", f"usr/{name}", f"/{name}")]
        machine = ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp", "--remount-ro", "/"]  # noqa: S108
        own = ["--unshare-pid", "--unshare-ipc", "--as-pid-1", "--die-with-parent", "--new-session"]
        own += ["--chdir", "/opt/captioner", "--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin", "--cap-add", "ALL"]
        rights = ["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", *rights]
        serve = [
            str(environment / "bin" / "python"),
            "-B",
            "-m",
            "deploy.container.entrypoint",
            "--config",
            "config.properties",
        ]
        ports = ["--listen", self.address, "--internal", self.internal.removeprefix("http://")]
        return [
            require_program("bwrap", "bubblewrap"),
            *binds,
            *links,
            *machine,
            *own,
            *user,
            *serve,
            *ports,
            *self.arguments,
        ]

    def start(self) -> None:
        """Start the process without waiting until it is ready. Needs root, to switch to another user."""
        require_program("nginx", "nginx-light")
        if os.getuid() != 0:
            pytest.skip("needs root, to become another user")
        for name in ("stdout", "stderr"):
            (self.directory / name).touch()
            (self.directory / name).chmod(0o666)  # an engine gives these to the container's user
        with (self.directory / "stdout").open("a") as out, (self.directory / "stderr").open("a") as errors:
            self.process = subprocess.Popen(self.command(), stdout=out, stderr=errors, stdin=subprocess.DEVNULL)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.stderr()
        return self.get_internal("/ready") == 200

    def get_internal(self, path: str) -> int:
        """Return the status of a path of the internal address; 0 if nothing listens there."""
        try:
            return self.http.get(self.internal + path, timeout=60, verify=False).status_code
        except requests.ConnectionError:
            return 0

    def started(self) -> bool:
        """Return whether the init process exists."""
        return bool(psutil.Process(self.process.pid).children())

    def init_process(self) -> psutil.Process:
        """Return the process that has PID 1 internal."""
        [first] = psutil.Process(self.process.pid).children()
        return first

    def processes(self, word: str) -> list[psutil.Process]:
        """Return the processes internal whose command line contains a word."""
        found = []
        for process in self.init_process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                found += [process] if word in " ".join(process.cmdline()) else []
        return found

    def file(self, path: str) -> Path:
        """Return the path, outside, of a file internal."""
        return Path(f"/proc/{self.init_process().pid}/root{path}")

    def keys(self) -> dict[str, str]:
        """Return the tokens that TorchServe has made."""
        keys = json.loads(self.file("/tmp/run/key_file.json").read_text())  # noqa: S108
        return {name: key["key"] for name, key in keys.items()}

    def terminate(self) -> None:
        """Send SIGTERM to PID 1, as the stop of an engine does."""
        self.init_process().send_signal(signal.SIGTERM)

    def stderr(self) -> str:
        return (self.directory / "stderr").read_text()

    def stop(self) -> None:
        if self.process.poll() is None:
            for first in psutil.Process(self.process.pid).children():
                first.kill()  # takes all that is in there along; to become another user has undone --die-with-parent
            self.process.kill()
            self.process.wait()


@contextmanager
def sandbox(directory: Path, store: Path, *arguments: str) -> Iterator[Sandbox]:
    """Run a sandbox, from ready to stopped."""
    made = Sandbox(directory, store, "--drain-seconds", "1", *arguments)
    made.start()
    try:
        eventually(made.ready, seconds=120, pause=0.1)
        yield made
    finally:
        made.stop()


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries a token."""
    return {"Authorization": f"Bearer {token}"}


def post_image(container: Sandbox, **arguments) -> requests.Response:
    """Ask the gateway for the caption of a sample photo."""
    image = PHOTOS[0].read_bytes()
    return container.http.post(f"{container.url}/predictions/captioner", data=image, timeout=60, **arguments)


def make_certificate(directory: Path) -> None:
    """Write a self-signed certificate for 127.0.0.1."""
    directory.mkdir(exist_ok=True)
    command = (
        require_program("openssl", "openssl") + " req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    )
    command += (
        f" -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout {directory}/tls.key -out {directory}/tls.crt"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    (directory / "tls.key").chmod(0o644)  # for the container's user

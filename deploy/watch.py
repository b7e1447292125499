"""Start a server again that has given up its workers, for as long as it runs.

python -m deploy.watch --config config.properties

TorchServe starts a worker anew that dies, but gives it up for good if it does not load within `startupTimeout` again
and again, e.g. on a machine without a free CPU. Requests then wait for ever. `make serve` runs this watch beside the
server; in the container, the entry point ends instead, and the container is restarted.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from deploy.torchserve import ServerError, TorchServe, is_jvm

ROOT = Path(__file__).parent.parent
CHECK_SECONDS = 5
GIVEN_UP_SECONDS = 120  # TorchServe pauses for at most 89 before it starts a worker again


class Watch:
    """Watches one server.

    Args:
        server: The server, which must be running.
        given_up_seconds: Seconds without any worker process until the server is started again.
    """

    def __init__(self, server: TorchServe, given_up_seconds: float = GIVEN_UP_SECONDS) -> None:
        self.server, self.given_up_seconds = server, given_up_seconds
        self.jvm = self._find_jvm()
        self.last_worker = time.monotonic()

    def check(self) -> bool:
        """Start the server again if it has had no worker process for too long.

        Returns:
            False if the server was stopped, or started by somebody else, who watches it.
        """
        if self.jvm is None or self._find_jvm() != self.jvm:
            return False
        now = time.monotonic()
        if any(not is_jvm(process) for process in self.server.processes()):
            self.last_worker = now
        elif now - self.last_worker > self.given_up_seconds:
            _log(f"No worker has run for {self.given_up_seconds:.0f} seconds: TorchServe gave up. Starting it again.")
            try:
                self.server.start()
            except ServerError as error:
                _log(str(error))
                return False
            self.jvm, self.last_worker = self._find_jvm(), time.monotonic()
            _log("The server is ready.")
        return True

    def _find_jvm(self) -> int | None:
        return next((process.pid for process in self.server.processes() if is_jvm(process)), None)


def start_watch(server: TorchServe) -> None:
    """Start the watch of a running server as a process of its own, which ends with the server."""
    with (server.logs / "watch.out").open("a") as log:
        subprocess.Popen(
            [sys.executable, "-m", "deploy.watch", "--config", str(server.config)],
            cwd=ROOT,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _log(text: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S"), text, file=sys.stderr, flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.watch", description="Watch a server.")
    parser.add_argument("--config", type=Path, default=ROOT / "config.properties", help="TorchServe properties")
    arguments = parser.parse_args()
    try:
        watch = Watch(TorchServe(arguments.config, ROOT, ROOT / "logs"))
    except ServerError as error:
        sys.exit(str(error))
    while watch.check():
        time.sleep(CHECK_SECONDS)


if __name__ == "__main__":
    main()

"""Serve in the foreground until SIGTERM, as PID 1 of a container or under systemd.

python -m deploy.container.entrypoint
python -m deploy.container.entrypoint --tls off --tokens off --listen 127.0.0.1:8443

TorchServe listens on loopback only, behind the gateway. On SIGTERM `/ready` turns to 503, so that no further requests
are routed here; requests in flight are answered, and the process exits with 0. It exits with 1 and one sentence if
TorchServe or the gateway dies, if no worker is READY for a minute, or if a request had to be cut off.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from deploy.container.gateway import Gateway
from deploy.torchserve import ServerError, TorchServe

PRODUCTION = Path(__file__).parent
MAX_UNREADY_SECONDS = 60  # TorchServe restarts a dead worker within seconds; longer means that it cannot start


class Terminated(BaseException):
    """SIGTERM or SIGINT was received."""


def serve(server: TorchServe, gateway: Gateway, drain_seconds: float) -> bool:
    """Serve until SIGTERM.

    Args:
        server: TorchServe to start.
        gateway: Gateway to start in front of it.
        drain_seconds: Seconds to accept further requests after SIGTERM, until all senders have seen `/ready` fail.

    Returns:
        True if every accepted request was answered.

    Raises:
        ServerError: If a process could not start or has died.
    """
    try:
        server.start()
        gateway.start()
        _log(f"captioner is ready on {gateway.listen}.")
        _supervise(server, gateway)
    except Terminated:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)
        if not gateway.running():  # no request can have come yet
            return True
        _log("Stopping: draining requests.")
        gateway.set_ready(False)
        time.sleep(drain_seconds)
        return gateway.drain()
    finally:
        gateway.stop()
        server.stop()


def _supervise(server: TorchServe, gateway: Gateway) -> NoReturn:
    """Publish readiness once a second; ends only by an exception."""
    last_ready = time.monotonic()
    while True:
        if not gateway.running():
            raise ServerError("The gateway, nginx, has died.")
        if not server.running():
            raise ServerError("TorchServe has died.")
        ready = server.ready()
        gateway.set_ready(ready)
        if ready:
            last_ready = time.monotonic()
        elif time.monotonic() - last_ready > MAX_UNREADY_SECONDS:
            raise ServerError(f"No worker was ready for {MAX_UNREADY_SECONDS} seconds.")
        gateway.reload_if_changed()
        time.sleep(1)


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _path_or_off(text: str) -> Path | None:
    return None if text == "off" else Path(text)


def main() -> None:
    """Run the command line."""
    work = Path(tempfile.gettempdir())
    parser = argparse.ArgumentParser(
        prog="python -m deploy.container.entrypoint", description="Serve in the foreground until SIGTERM."
    )
    parser.add_argument("--listen", default="0.0.0.0:8443", help="address for clients")
    parser.add_argument("--internal", default="0.0.0.0:9000", help="address for probes and Prometheus")
    parser.add_argument(
        "--tls", type=_path_or_off, default="/etc/captioner/tls", help="directory of tls.crt and tls.key, or off"
    )
    parser.add_argument(
        "--tokens", type=_path_or_off, default="/etc/captioner/tokens/tokens", help="file with one token a line, or off"
    )
    parser.add_argument("--drain-seconds", type=float, default=10, help="seconds to accept requests after SIGTERM")
    parser.add_argument("--config", type=Path, default=PRODUCTION / "config.properties", help="TorchServe properties")
    arguments = parser.parse_args()
    if os.geteuid() == 0:
        sys.exit("This does not serve as root, because it needs no root rights: start it as another user.")
    os.umask(0o077)  # the files below contain tokens
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, _terminate)
    try:
        run = work / "run"
        run.mkdir(exist_ok=True)
        server = TorchServe(arguments.config, run, work / "logs", PRODUCTION / "log4j2.xml")
        gateway = Gateway(
            server, work / "gateway", arguments.listen, arguments.internal, arguments.tls, arguments.tokens
        )
        if not serve(server, gateway, arguments.drain_seconds):
            sys.exit("Requests were cut off: they took too long.")
        _log("Stopped; every request was answered.")
    except Terminated:
        pass
    except ServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

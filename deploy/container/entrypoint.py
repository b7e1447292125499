"""Serves in the foreground until it is told to stop: a container's first process, or a service's of systemd.

python -m deploy.container.entrypoint
python -m deploy.container.entrypoint --tls off --tokens off --listen 127.0.0.1:8443

TorchServe on loopback, and before it the gateway. On SIGTERM it first says that it is not ready, so that no more
requests are sent here, then answers those in flight, and ends with 0. It ends with 1, and one sentence why, when
TorchServe or the gateway has died, when no worker is ready for a minute, or when a request had to be cut off.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from deploy.container.gateway import Gateway
from deploy.torchserve import ServerError, TorchServe

PRODUCTION = Path(__file__).parent
UNREADY_SECONDS = 60  # a worker that dies is started again within seconds; one that can't be is for others to see


class Terminated(BaseException):
    """SIGTERM or SIGINT has come."""


def serve(server: TorchServe, gateway: Gateway, drain_seconds: float) -> bool:
    """Serves until SIGTERM.

    Args:
        drain_seconds: how long requests are still taken after it, while whoever sends them learns of it.

    Returns:
        Whether every request that had come was answered.

    Raises:
        ServerError: it could not start, or something has died.
    """
    try:
        server.start()
        gateway.start()
        _say(f"captioner is ready on {gateway.listen}.")
        _watch(server, gateway)
    except Terminated:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)
        if not gateway.running():  # before a request could come
            return True
        _say("Stopping: no more requests, please.")
        gateway.announce(False)
        time.sleep(drain_seconds)
        return gateway.drain()
    finally:
        gateway.stop()
        server.stop()


def _watch(server: TorchServe, gateway: Gateway) -> None:
    """Announces readiness as it changes; ends only by raising."""
    last_ready = time.monotonic()
    while True:
        if not gateway.running():
            raise ServerError("The gateway, nginx, has died.")
        if not server.running():
            raise ServerError("TorchServe has died.")
        ready = server.ready()
        gateway.announce(ready)
        if ready:
            last_ready = time.monotonic()
        elif time.monotonic() - last_ready > UNREADY_SECONDS:
            raise ServerError(f"No worker was ready for {UNREADY_SECONDS} seconds.")
        gateway.refresh()
        time.sleep(1)


def _terminate(*_) -> None:
    raise Terminated


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _path_or_off(text: str) -> Path | None:
    return None if text == "off" else Path(text)


def main() -> None:
    work = Path(tempfile.gettempdir())
    parser = argparse.ArgumentParser(description="Serves in the foreground until it is told to stop.")
    parser.add_argument("--listen", default="0.0.0.0:8443", help="for clients")
    parser.add_argument("--inside", default="0.0.0.0:9000", help="for probes and Prometheus")
    parser.add_argument("--tls", type=_path_or_off, default="/etc/captioner/tls", help="folder of tls.crt and tls.key")
    parser.add_argument("--tokens", type=_path_or_off, default="/etc/captioner/tokens/tokens", help="one a line")
    parser.add_argument("--drain-seconds", type=float, default=10, help="requests are taken so long after SIGTERM")
    parser.add_argument("--config", type=Path, default=PRODUCTION / "config.properties", help="TorchServe's properties")
    arguments = parser.parse_args()
    if os.geteuid() == 0:
        sys.exit("This serves as any user but root: it needs none of root's rights.")
    os.umask(0o077)  # tokens are written below
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, _terminate)
    try:
        run = work / "run"
        run.mkdir(exist_ok=True)
        server = TorchServe(arguments.config, run, work / "logs", PRODUCTION / "log4j2.xml")
        gateway = Gateway(server, work / "gateway", arguments.listen, arguments.inside, arguments.tls, arguments.tokens)
        if not serve(server, gateway, arguments.drain_seconds):
            sys.exit("Requests were cut off: they took too long.")
        _say("Stopped; every request was answered.")
    except Terminated:
        pass
    except ServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

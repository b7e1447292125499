"""Faults under load: clients send requests during a fault, which is a row of the table in docs/robustness.md."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from deploy.demo.traffic import Traffic
from deploy.torchserve import START_SECONDS, ServerError, TorchServe, is_jvm
from eval.client import Client
from tests.helpers.paths import PHOTOS
from tests.helpers.polling import eventually

IMAGES = {photo.stem: photo.read_bytes() for photo in PHOTOS}
RECOVERY_TIMEOUT = START_SECONDS + 60  # a start takes ten seconds on a machine that does nothing else


def worker(server: TorchServe) -> psutil.Process:
    """Return the only worker of a server."""
    [process] = [process for process in server.processes() if not is_jvm(process)]
    return process


def answers(server: TorchServe) -> bool:
    """Return whether an image gets a caption now."""
    try:
        return bool(server.caption(PHOTOS[0])["caption"])
    except ServerError:
        return False


def wait_for_service(server: TorchServe, since: float) -> float:
    """Wait until the server is ready and captions; return the seconds since a time of `perf_counter`."""
    eventually(server.ready, RECOVERY_TIMEOUT)
    eventually(lambda: answers(server), RECOVERY_TIMEOUT, pause=0.2)
    return time.perf_counter() - since


def report(fault: str, accepted: int, lost: int, wrong: int, seconds: float) -> None:
    """Print the row of the table; no request may be lost or wrong, and the service has to recover in time."""
    print(f"| {fault} | {accepted} | {lost} | {wrong} | {seconds:.1f} |")
    assert accepted > 0
    assert (lost, wrong) == (0, 0)
    assert seconds < RECOVERY_TIMEOUT


@contextmanager
def under_load(server: TorchServe, fault: str, clients: int = 4, protocol: str = "rest") -> Iterator[Traffic]:
    """Send requests while the block causes a fault, and report it.

    Recovery is the first correct response to a request that was sent after the start of the block.
    """
    with Client(server.inference) as client:
        responses = {name: client.caption(image) for name, image in IMAGES.items()}
    version = next(iter(responses.values()))["model"]["version"]
    expected = {version: {name: response["caption"] for name, response in responses.items()}}
    endpoint = server.inference if protocol == "rest" else server.grpc
    with Traffic(endpoint, IMAGES, expected, clients, protocol) as traffic:
        traffic.wait(requests=clients)
        start = time.perf_counter()

        def correct() -> list[float]:
            return [result.at for result in list(traffic.results) if result.matches and result.started_at > start]

        yield traffic
        eventually(correct, RECOVERY_TIMEOUT)
        eventually(server.ready, RECOVERY_TIMEOUT)
    report(fault, len(traffic.results), traffic.lost, traffic.wrong, min(correct()) - start)

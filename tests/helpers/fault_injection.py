"""What a fault costs: callers ask all the while, and it becomes a row of the table in docs/robustness.md."""

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
    """The server's only worker."""
    [found] = [process for process in server.processes() if not is_jvm(process)]
    return found


def answers(server: TorchServe) -> bool:
    """Whether a picture gets a caption now."""
    try:
        return bool(server.caption(PHOTOS[0])["caption"])
    except ServerError:
        return False


def wait_for_service(server: TorchServe, since: float) -> float:
    """Waits until the server is ready and captions; seconds since then, a time of `perf_counter`."""
    eventually(server.ready, RECOVERY_TIMEOUT)
    eventually(lambda: answers(server), RECOVERY_TIMEOUT, pause=0.2)
    return time.perf_counter() - since


def report(fault: str, accepted: int, lost: int, wrong: int, seconds: float) -> None:
    """Prints the table's row; nothing may be lost or wrong, and service has to be back in time."""
    print(f"| {fault} | {accepted} | {lost} | {wrong} | {seconds:.1f} |")
    assert accepted > 0
    assert (lost, wrong) == (0, 0)
    assert seconds < RECOVERY_TIMEOUT


@contextmanager
def under_load(server: TorchServe, fault: str, callers: int = 4, protocol: str = "rest") -> Iterator[Traffic]:
    """Has callers ask while a fault is brought about in the block, and tells of it.

    What counts as recovery is the first right answer to a request that was made after the block began.
    """
    with Client(server.inference) as client:
        answered = {name: client.caption(picture) for name, picture in IMAGES.items()}
    version = next(iter(answered.values()))["model"]["version"]
    expected = {version: {name: answer["caption"] for name, answer in answered.items()}}
    endpoint = server.inference if protocol == "rest" else server.grpc
    with Traffic(endpoint, IMAGES, expected, callers, protocol) as traffic:
        traffic.wait(requests=callers)
        began = time.perf_counter()
        yield traffic
        eventually(
            lambda: any(one.matches and one.started_at > began for one in list(traffic.results)), RECOVERY_TIMEOUT
        )
        eventually(server.ready, RECOVERY_TIMEOUT)
    first = min(one.at for one in traffic.results if one.matches and one.started_at > began)
    report(fault, len(traffic.results), traffic.lost, traffic.wrong, first - began)

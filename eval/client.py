"""A client of the endpoint, over REST or gRPC. It knows the endpoint's JSON and nothing of what is behind it.

python -m eval.client photo.jpg --beam-size 5
python -m eval.client photos/ 'more/**/*.jpg' --output captions.jsonl --concurrency 16
python -m eval.client photo.jpg --protocol grpc --endpoint 127.0.0.1:7070
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, TypeVar

from eval.transports import DEFAULTS, Answer, Busy, EndpointError, Grpc, Rest, Transport, Unreachable

T = TypeVar("T")
LONGEST_PAUSE = 10.0  # s


class Client:
    """Asks an endpoint for captions.

    Args:
        endpoint: REST: the server's URL, or that of the model itself (`…/predictions/captioner`); gRPC: host and port.
            Left out, TorchServe's own on this machine.
        protocol: `rest` or `grpc`.
        model: its name there.
        timeout: seconds for one try, from the request's first byte to the answer's last.
        retries: further tries of a request that the endpoint had no room for, after pauses that double.
        token: for an endpoint that asks for one.
        concurrency: connections kept open.

    Raises:
        ValueError: another protocol, or a number that can't be.
        ModuleNotFoundError: gRPC is not installed.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        protocol: str = "rest",
        model: str = "captioner",
        timeout: float = 60.0,
        retries: int = 8,
        token: str | None = None,
        concurrency: int = 1,
    ):
        if protocol not in DEFAULTS:
            raise ValueError(f"The protocol is rest or grpc, not {protocol}.")
        self.endpoint, self.protocol = endpoint or DEFAULTS[protocol], protocol
        for name, value, least in (
            ("timeout", timeout, 0.001),
            ("retries", retries, 0),
            ("concurrency", concurrency, 1),
        ):
            if value < least:
                raise ValueError(f"{name} is at least {least}, not {value}.")
        self.retries, self.concurrency = retries, concurrency
        self._stopped = threading.Event()  # nobody waits for further tries
        kind = Rest if protocol == "rest" else Grpc
        self.transport: Transport = kind(self.endpoint, model, timeout, token, concurrency)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self._stopped.set()
        self.transport.close()

    def caption(self, image: bytes, **options: Any) -> Answer:
        """The endpoint's answer to an image file's bytes.

        Raises:
            EndpointError: it refused the request, or had no room for it after all tries.
        """
        return self._tried(lambda: self.transport.ask(image, options))

    def stream(self, image: bytes, **options: Any) -> Iterator[Answer]:
        """The parts of the answer as they come: `{"token": …}` a word, and last the whole answer.

        Raises:
            EndpointError: as `caption`.
        """
        options = options | {"stream": True}

        def begin() -> tuple[Answer, Iterator[Answer]]:  # only before its first part can a stream be begun anew
            parts = self.transport.stream(image, options)
            return next(parts, {}), parts

        part, rest = self._tried(begin)
        while "token" in part:
            yield part
            part = next(rest, {})
        if not part:
            raise EndpointError(0, "Broken", "The stream ended without its answer.")
        yield part

    def caption_all(
        self, pictures: Iterable[tuple[Any, Callable[[], bytes]]], *, in_order: bool = True, **options: Any
    ) -> Iterator["CaptionResult"]:
        """Captions many pictures, `concurrency` at a time.

        Args:
            pictures: what a picture is known by, and what reads its bytes; they are read as they are needed.
            in_order: whether outcomes come in the pictures' order, or each as soon as it is there.
            options: for all of them.

        Returns:
            An outcome for each.

        Raises:
            Unreachable: nobody is there any more, after all tries; what follows is not asked for.
        """

        def one(key: Any, read: Callable[[], bytes]) -> CaptionResult:
            began = time.perf_counter()
            try:
                result: Answer | EndpointError = self.caption(read(), **options)
            except Unreachable:
                raise
            except EndpointError as error:
                result = error
            except OSError as error:
                result = EndpointError(0, "Unreadable", f"{error.strerror or error}.")
            return CaptionResult(key, result, time.perf_counter() - began)

        waiting: deque[Future[CaptionResult]] = deque()
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                for key, read in pictures:
                    waiting.append(pool.submit(one, key, read))
                    while len(waiting) > 2 * self.concurrency:  # no more in memory than are soon needed
                        yield _next(waiting, in_order)
                while waiting:
                    yield _next(waiting, in_order)
            except BaseException:
                self._stopped.set()  # else the pool would wait for all their pauses
                for future in waiting:
                    future.cancel()
                raise

    def _tried(self, attempt: Callable[[], T]) -> T:
        """What an attempt gives, made again after a pause while the endpoint is busy."""
        for number in range(self.retries):
            try:
                return attempt()
            except Busy:
                # "Full jitter": clients that were turned away together do not come back together.
                pause = random.uniform(0.05, min(LONGEST_PAUSE, 0.1 * 2 ** (number + 1)))  # noqa: S311
                if self._stopped.wait(pause):
                    raise
        return attempt()


def _next(waiting: deque[Future], in_order: bool) -> "CaptionResult":
    """Takes the first outcome, or one that is there."""
    if not in_order:
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        chosen = next(iter(done))
        waiting.remove(chosen)
        return chosen.result()
    return waiting.popleft().result()


class CaptionResult(NamedTuple):
    """What came of one picture."""

    key: Any
    result: Answer | EndpointError
    seconds: float  # from its first try to its last answer


if __name__ == "__main__":
    from eval.caption import main

    main()

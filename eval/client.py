"""Client of a captioning endpoint over REST or gRPC, with retries and concurrent requests."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Self, TypeVar

from eval.transports import (
    DEFAULT_ENDPOINTS,
    Busy,
    EndpointError,
    Grpc,
    ResponseBody,
    Rest,
    Transport,
    Unreachable,
)

__all__ = ["Busy", "CaptionResult", "Client", "EndpointError", "ResponseBody", "Unreachable"]

T = TypeVar("T")
MIN_BACKOFF, MAX_BACKOFF = 0.05, 10.0  # seconds


class CaptionResult(NamedTuple):
    """Response or error for one image of `Client.caption_all`."""

    key: Any
    response: ResponseBody | EndpointError
    seconds: float  # from the first attempt to the last response


class Client:
    """Client of one endpoint. Safe to use from several threads.

    Args:
        endpoint: REST: URL of the server or of the model (`…/predictions/captioner`). gRPC: host and port.
            Default: TorchServe on this machine.
        protocol: `rest` or `grpc`.
        model: Name of the model at the endpoint.
        timeout: Seconds per attempt, from the first byte of the request to the last byte of the response.
        retries: Number of retries of a request that the endpoint could not accept, with exponential backoff.
        token: Bearer token, if the endpoint requires one.
        concurrency: Number of connections kept open, and of concurrent requests of `caption_all`.

    Raises:
        ValueError: If the protocol is unknown or a number is too small.
        ModuleNotFoundError: If gRPC is not installed.
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
    ) -> None:
        if protocol not in DEFAULT_ENDPOINTS:
            raise ValueError(f"The protocol must be rest or grpc, not {protocol}.")
        self.endpoint, self.protocol = endpoint or DEFAULT_ENDPOINTS[protocol], protocol
        for name, value, least in (
            ("timeout", timeout, 0.001),
            ("retries", retries, 0),
            ("concurrency", concurrency, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}.")
        self.retries, self.concurrency = retries, concurrency
        self._closed = threading.Event()  # ends the backoff of requests that nobody waits for
        transport: type[Rest] | type[Grpc] = Rest if protocol == "rest" else Grpc
        self.transport: Transport = transport(self.endpoint, model, timeout, token, concurrency)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self.transport.close()

    def caption(self, image: bytes, **options: object) -> ResponseBody:
        """Caption one image.

        Args:
            image: Contents of an image file.
            options: Generation options of the endpoint, e.g. `beam_size=5`.

        Returns:
            The JSON object of the response.

        Raises:
            EndpointError: If the endpoint refused the request or stayed busy during all retries.
        """
        return self._with_retries(lambda: self.transport.predict(image, options))

    def stream(self, image: bytes, **options: object) -> Iterator[ResponseBody]:
        """Caption one image and yield `{"token": …}` for each token as it arrives, and the whole response last.

        Raises:
            EndpointError: As in `caption`.
        """
        options = options | {"stream": True}

        def start() -> tuple[ResponseBody, Iterator[ResponseBody]]:  # a stream can be retried up to its first chunk
            chunks = self.transport.stream(image, options)
            return next(chunks, {}), chunks

        chunk, rest = self._with_retries(start)
        while "token" in chunk:
            yield chunk
            chunk = next(rest, {})
        if not chunk:
            raise EndpointError(0, "Broken", "The stream ended without the whole response.")
        yield chunk

    def caption_all(
        self, images: Iterable[tuple[Any, Callable[[], bytes]]], *, in_order: bool = True, **options: object
    ) -> Iterator[CaptionResult]:
        """Caption many images, `concurrency` at a time.

        Args:
            images: Key of each image and a function that reads it, called when the image is sent.
            in_order: Whether to yield results in the order of the images, not as they complete.
            options: Generation options for all images.

        Yields:
            A result for each image; errors of single images are results, too.

        Raises:
            Unreachable: If the endpoint stayed unreachable during all retries. Remaining images are not sent.
        """
        pending: deque[Future[CaptionResult]] = deque()
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                for key, read in images:
                    pending.append(pool.submit(self._caption_one, key, read, options))
                    while len(pending) > 2 * self.concurrency:  # limits the number of images in memory
                        yield _pop_result(pending, in_order)
                while pending:
                    yield _pop_result(pending, in_order)
            except BaseException:
                self._closed.set()  # otherwise the pool would wait for the backoff of all requests
                for future in pending:
                    future.cancel()
                raise

    def _caption_one(self, key: object, read: Callable[[], bytes], options: Mapping[str, object]) -> CaptionResult:
        start = time.perf_counter()
        try:
            response: ResponseBody | EndpointError = self.caption(read(), **options)
        except Unreachable:
            raise
        except EndpointError as error:
            response = error
        except OSError as error:
            response = EndpointError(0, "Unreadable", f"{error.strerror or error}.")
        return CaptionResult(key, response, time.perf_counter() - start)

    def _with_retries(self, attempt: Callable[[], T]) -> T:
        """Return the result of `attempt`, repeated with backoff while it raises `Busy`."""
        for number in range(self.retries):
            try:
                return attempt()
            except Busy:
                # "Full jitter" spreads the retries of clients that were refused at the same time.
                delay = random.uniform(MIN_BACKOFF, min(MAX_BACKOFF, 0.1 * 2 ** (number + 1)))  # noqa: S311
                if self._closed.wait(delay):
                    raise
        return attempt()


def _pop_result(pending: deque[Future[CaptionResult]], in_order: bool) -> CaptionResult:
    """Wait for the first result, or for any if they need not be in order."""
    if not in_order:
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        future = next(iter(done))
        pending.remove(future)
        return future.result()
    return pending.popleft().result()

"""Closed-loop load generator: N clients, each with one request at a time."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class LoadGenerator(Generic[RequestT, ResultT]):
    """Send requests from several threads until the context ends.

    Args:
        requests: Endless iterator that all clients share.
        send: Sends one request and returns its result. It must not raise.
        num_clients: Number of clients, i.e. of concurrent requests.

    Attributes:
        results: Results in the order of completion.
        started_at: Start time, from `time.perf_counter`.
        finished_at: Time of the last result, from `time.perf_counter`.
    """

    def __init__(self, requests: Iterator[RequestT], send: Callable[[RequestT], ResultT], num_clients: int) -> None:
        self.results: list[ResultT] = []
        self.started_at = self.finished_at = 0.0
        self._requests, self._send = requests, send
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(num_clients)]

    def __enter__(self) -> Self:
        self.started_at = time.perf_counter()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sending and wait for the requests in flight."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.finished_at = time.perf_counter()

    def wait(self, seconds: float = 0, requests: int = 0) -> None:
        """Keep the load running for at least `seconds` and at least `requests` further results."""
        deadline, count = time.perf_counter() + seconds, len(self.results) + requests
        while time.perf_counter() < deadline or len(self.results) < count:
            time.sleep(0.02)

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                request = next(self._requests)
            result = self._send(request)
            with self._lock:
                self.results.append(result)

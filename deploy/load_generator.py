"""So many callers of an endpoint, each with one request at a time, until they are told to stop."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Wish, Answered = TypeVar("Wish"), TypeVar("Answered")


class LoadGenerator(Generic[Wish, Answered]):
    """LoadGenerator that ask for what comes next, all out of one list.

    Args:
        wishes: without an end.
        ask: sends one, and returns what came of it; it raises nothing.
        count: callers, that is requests at once.

    Attributes:
        answered: what came of each, in the order that they were answered.
        began, ended: times of `perf_counter`.
    """

    def __init__(self, wishes: Iterator[Wish], ask: Callable[[Wish], Answered], count: int):
        self.answered: list[Answered] = []
        self.began = self.ended = 0.0
        self._wishes, self._ask = wishes, ask
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(count)]

    def __enter__(self):
        self.began = time.perf_counter()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        """Stops asking, and waits for what was asked."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.ended = time.perf_counter()

    def wait(self, seconds: float = 0, requests: int = 0) -> None:
        """Lets the callers go on for so long, and for so many requests from now on."""
        end, count = time.perf_counter() + seconds, len(self.answered) + requests
        while time.perf_counter() < end or len(self.answered) < count:
            time.sleep(0.02)

    def _call(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                wish = next(self._wishes)
            answered = self._ask(wish)
            with self._lock:
                self.answered.append(answered)

"""LoadGenerator of an endpoint that compare each answer with what an undisturbed server said of the same picture."""

import itertools
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import NamedTuple

from deploy.load_generator import LoadGenerator
from eval.client import Client, EndpointError

AGAIN = 12  # further tries of a caller, with pauses that double


class Answered(NamedTuple):
    """What came of one request.

    Attributes:
        began: when its first try was, a time of `perf_counter`.
        seconds: from then to its last answer.
        version: the model's that answered; empty where none did.
        right: whether the caption is the one that this version gives undisturbed.
        error: of the first try, where that failed.
    """

    began: float
    seconds: float
    version: str
    right: bool
    error: str

    @property
    def at(self) -> float:
        """When it was answered."""
        return self.began + self.seconds


class Traffic(LoadGenerator[str, Answered]):
    """So many callers, each with one request at a time, until they are told to stop.

    Args:
        endpoint: URL, or host and port for gRPC.
        pictures: name → an image file's bytes; they are asked for in turns.
        expected: version → picture's name → caption; it may grow meanwhile.
        callers: requests at once.
        protocol: `rest` or `grpc`.
    """

    def __init__(
        self,
        endpoint: str,
        pictures: Mapping[str, bytes],
        expected: Mapping[str, Mapping[str, str]],
        callers: int = 8,
        protocol: str = "rest",
    ):
        super().__init__(itertools.cycle(pictures), self._caption, callers)
        self.expected, self._pictures = expected, pictures
        self._clients = ExitStack()
        self._once, self._patient = (
            self._clients.enter_context(Client(endpoint, protocol=protocol, retries=retries, concurrency=callers))
            for retries in (0, AGAIN)
        )

    def __exit__(self, *_) -> None:
        super().__exit__()
        self._clients.close()

    def _caption(self, name: str) -> Answered:
        began, error = time.perf_counter(), ""
        try:
            try:
                answer = self._once.caption(self._pictures[name])
            except EndpointError as refused:
                error = f"{refused.type} {refused.code}"
                answer = self._patient.caption(self._pictures[name])
            version = answer["model"]["version"]
            right = self.expected.get(version, {}).get(name) == answer["caption"]
        except EndpointError as refused:
            version, right, error = "", False, f"{refused.type} {refused.code}"
        return Answered(began, time.perf_counter() - began, version, right, error)

    @property
    def lost(self) -> int:
        """Requests that never got a caption."""
        return sum(not one.version for one in self.answered)

    @property
    def wrong(self) -> int:
        """Captions that the version which answered does not give undisturbed."""
        return sum(bool(one.version) and not one.right for one in self.answered)

    @property
    def errors(self) -> Counter[str]:
        """First tries that failed, by what they said."""
        return Counter(one.error for one in self.answered if one.error)

    @property
    def versions(self) -> Counter[str]:
        """Captions by the version that gave them."""
        return Counter(one.version for one in self.answered if one.version)

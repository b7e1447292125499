"""Clients that compare each caption with the one that the same version returns without load."""

import itertools
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import NamedTuple

from deploy.load_generator import LoadGenerator
from eval.client import Client
from eval.transports import EndpointError

MAX_RETRIES = 12  # after a failed first attempt, with exponential backoff


class RequestResult(NamedTuple):
    """Result of one request.

    Attributes:
        started_at: Time of the first attempt, from `time.perf_counter`.
        seconds: Time from the first attempt to the final response.
        version: Model version of the response; empty if every attempt failed.
        matches: Whether the caption is the one that this version returns without load.
        error: Error of the first attempt; empty if it succeeded.
    """

    started_at: float
    seconds: float
    version: str
    matches: bool
    error: str

    @property
    def at(self) -> float:
        """Time of the final response."""
        return self.started_at + self.seconds


class Traffic(LoadGenerator[str, RequestResult]):
    """Load generator that counts lost and wrong captions.

    Args:
        endpoint: URL, or host and port for gRPC.
        images: Encoded images by name, requested in turn.
        expected: Version → image name → caption; it may grow during the load.
        num_clients: Number of concurrent requests.
        protocol: `rest` or `grpc`.
    """

    def __init__(
        self,
        endpoint: str,
        images: Mapping[str, bytes],
        expected: Mapping[str, Mapping[str, str]],
        num_clients: int = 8,
        protocol: str = "rest",
    ) -> None:
        super().__init__(itertools.cycle(images), self._send_and_compare, num_clients)
        self.expected, self._images = expected, images
        self._clients = ExitStack()
        self._plain_client, self._retrying_client = (
            self._clients.enter_context(Client(endpoint, protocol=protocol, retries=retries, concurrency=num_clients))
            for retries in (0, MAX_RETRIES)
        )

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._clients.close()

    def _send_and_compare(self, name: str) -> RequestResult:
        start, first_error = time.perf_counter(), ""
        try:
            try:
                response = self._plain_client.caption(self._images[name])
            except EndpointError as error:
                first_error = f"{error.type} {error.code}"
                response = self._retrying_client.caption(self._images[name])
            version = response["model"]["version"]
            matches = self.expected.get(version, {}).get(name) == response["caption"]
        except EndpointError as error:
            version, matches, first_error = "", False, f"{error.type} {error.code}"
        return RequestResult(start, time.perf_counter() - start, version, matches, first_error)

    @property
    def lost(self) -> int:
        """Number of requests that never got a caption."""
        return sum(not result.version for result in self.results)

    @property
    def wrong(self) -> int:
        """Number of captions that differ from those without load."""
        return sum(bool(result.version) and not result.matches for result in self.results)

    @property
    def errors(self) -> Counter[str]:
        """Number of failed first attempts by error."""
        return Counter(result.error for result in self.results if result.error)

    @property
    def versions(self) -> Counter[str]:
        """Number of captions by model version."""
        return Counter(result.version for result in self.results if result.version)

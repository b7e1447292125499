"""One request as TorchServe hands it over, and what it is answered with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from handler.serving.responses import JSON


class Call(NamedTuple):
    """One request as it came.

    Attributes:
        row: its body or fields, as `parse_request` takes them.
        headers: names in lower case; gRPC has none.
        id: the server's name for it.
        send: sends a part of a streamed answer.
    """

    row: Mapping[str, object]
    headers: Mapping[str, str]
    id: str
    send: Callable[[str], None]

    @property
    def http(self) -> bool:
        """Whether it came over HTTP and not gRPC: that has no headers, and of HTTP/1.0's `Host` may be missing."""
        return bool(self.headers)

    @property
    def explains(self) -> bool:
        """Whether it came to `/explanations`."""
        return self.headers.get("explain") == "True"

    def accepted(self, *media: str) -> str | None:
        """Which of these media types is accepted by its name, the first where several are."""
        named = self.headers.get("accept", "").lower()
        return min((one for one in media if one in named), key=named.index, default=None)

    @property
    def bare(self) -> bool:
        """Whether it is a GET, as far as can be known: TorchServe does not tell the method, but it has no body."""
        return self.http and not self.explains and not any(self.row.values()) and "content-type" not in self.headers


@dataclass
class Answer:
    """What a call is answered with, and what is to be known about it.

    Attributes:
        body: its text or bytes; of a stream the last part.
        code: HTTP's.
        content_type: HTTP's.
        headers: more of HTTP's; fixed texts, nothing of a caller's.
        results: for each picture `ok`, `cached`, or an error's type; none where no picture was asked about.
        captions: the best one of each picture; empty where there is none.
        bytes: of all its pictures' files.
        decode: seconds spent on its pictures.
        stream: whether it was sent in parts.
    """

    body: str | bytes
    code: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    bytes: int = 0
    decode: float = 0.0
    stream: bool = False

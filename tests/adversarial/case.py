"""Cases: what is sent, and the responses that are allowed."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

CAPTION = "caption"
REFUSED = frozenset({"InvalidImage", "TooManyPixels"})  # a corrupted image: whichever is detected first
EITHER = REFUSED | {CAPTION}  # a corrupted image that may still be readable


class ImageCase(NamedTuple):
    """An image file.

    Attributes:
        kind: Row of the table in which it counts.
        name: Unique name within the kind.
        make: Returns the file.
        answers: Allowed responses: error types, or `caption`.
    """

    kind: str
    name: str
    make: Callable[[], bytes]
    answers: frozenset[str]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


class RequestCase(NamedTuple):
    """A request.

    Attributes:
        kind: Row of the table in which it counts.
        name: Unique name within the kind.
        make: Returns the body, or the fields of a form.
        answers: Allowed responses: error types, or `caption`.
        content_type: Content type of the body; a form sets its own.
        path: Path below the address of the server.
    """

    kind: str
    name: str
    make: Callable[[], bytes | Mapping[str, bytes]]
    answers: frozenset[str]
    content_type: str = "application/json"
    path: str = "/predictions/captioner"

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def cases(kind: str, answers: frozenset[str] | str, made: Mapping[str, Callable[[], bytes]]) -> list[ImageCase]:
    """Return image cases of one kind with the same allowed responses."""
    answers = frozenset({answers}) if isinstance(answers, str) else answers
    return [ImageCase(kind, name, make, answers) for name, make in made.items()]

"""A case: what is sent, and what may be answered."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

CAPTION = "caption"
REFUSED = frozenset({"InvalidImage", "TooManyPixels"})  # of a picture that is damaged, whichever is seen first
EITHER = REFUSED | {CAPTION}  # of a picture that may or may not be readable still


class ImageCase(NamedTuple):
    """A picture's file.

    Attributes:
        kind: the row of the table that it counts in.
        name: of its own.
        make: gives its bytes.
        answers: the types of errors that it may be answered with, or `caption`.
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
        kind: the row of the table that it counts in.
        name: of its own.
        make: gives its body; a form's as its fields.
        answers: the types of errors that it may be answered with, or `caption`.
        content_type: of the body; a form makes its own.
        path: below the server's address.
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
    """Cases of one kind that are answered alike."""
    answers = frozenset({answers}) if isinstance(answers, str) else answers
    return [ImageCase(kind, name, make, answers) for name, make in made.items()]

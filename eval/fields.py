"""Fields of the JSON files that hold image ids and captions."""

import json
import re
from pathlib import Path
from typing import Any

LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half of a character, as JSON can escape it; UTF-8 cannot encode it


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Read JSON in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; ValueError otherwise."""
    return json.loads(path.read_bytes())


def describe_error(error: Exception) -> str:
    """Describe an error of reading JSON in a few words."""
    if isinstance(error, UnicodeDecodeError):  # its representation holds the whole file
        return f"byte {error.start} is not UTF-8: convert the file, e.g. with iconv -f latin1 -t utf-8"
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def parse_image_id(value: object) -> int:
    """Return an image id, which files also write as `"42"` or `42.0`.

    Raises:
        TypeError: If it is not an integer.
    """
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"the image id {value!r} is not an integer")
    return value


def parse_caption(value: object) -> str:
    """Return a caption, with U+FFFD for each half of a character.

    Raises:
        TypeError: If it is not a string.
    """
    if not isinstance(value, str):
        raise TypeError(f"the caption {value!r} is not a string")
    return LONE_SURROGATE.sub("\ufffd", value)

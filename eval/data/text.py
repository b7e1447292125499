"""Read UTF-8 and JSON, with errors that name the file and the line."""

import codecs
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# UTF-32 first: its mark starts with that of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BETWEEN = re.compile(r"[\s,:]*")  # what stands between two values in JSON


def read_text(path: Path) -> str:
    """Read a file in UTF-8, or in another Unicode encoding that its byte order mark names.

    Raises:
        ValueError: If the file has another encoding.
    """
    data = path.read_bytes()
    encoding = _encoding(data)
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"0x{data[error.start]:02X}"
        raise ValueError(
            f"{path}, line {line}: the byte {byte} is not {encoding.upper()}. Save the file as UTF-8, e.g. with "
            "iconv -f latin1 -t utf-8."
        ) from error


def first_line(path: Path) -> str:
    """Return the start of a file up to its first newline, with replacement characters for what is not Unicode."""
    with path.open("rb") as file:
        data = file.read(1 << 16)
    return data.decode(_encoding(data), "replace").removeprefix("\ufeff").split("\n", 1)[0].strip()


def parse_json(
    path: Path, text: str, *, first_line: int = 1, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> Any:  # noqa: ANN401
    """Parse JSON that starts in a line of a file; `object_hook` as for `json.loads`.

    Raises:
        ValueError: If it is not JSON.
    """
    try:
        return json.loads(text, object_hook=object_hook)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ValueError(f"{path}, line {line}: this is not JSON ({error.msg}).") from error


def entry_line(text: str, key: str, index: int) -> int:
    """Return the line at which an entry of a list starts.

    Args:
        text: A JSON object.
        key: Name of the list in it.
        index: Index of the entry in the list.
    """
    decode = json.JSONDecoder().raw_decode
    position = _skip(text, text.index("{") + 1)
    name = None
    while name != key:
        if name is not None:
            position = _skip(text, decode(text, position)[1])
        name, position = decode(text, position)
        position = _skip(text, position)
    position = _skip(text, position + 1)
    for _ in range(index):
        position = _skip(text, decode(text, position)[1])
    return text.count("\n", 0, position) + 1


def _encoding(data: bytes) -> str:
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")


def _skip(text: str, position: int) -> int:
    match = _BETWEEN.match(text, position)
    return match.end() if match else position

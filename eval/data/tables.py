"""Tables of file names and captions: Kaggle's `captions.txt` and `results.csv`, CSV, TSV, JSON lines, `metadata.*`."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.data.text import first_line, parse_json, read_text

SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".jsonl"})
FILE_COLUMNS = ("file_name", "filename", "image", "image_name", "file", "image_path", "path")
CAPTION_COLUMNS = ("caption", "captions", "comment", "text", "sentence")
NUMBERED_CAPTION = re.compile(r"caption[ _]?\d+")  # several columns: caption_0, caption_1, …
SPLIT_COLUMNS = ("split",)
ID_COLUMNS = ("image_id",)
DELIMITERS = (",", "|", "\t", ";")
NUMBERED_COMMENT = re.compile(r"(\d+)\s+(\S.*)")  # a row of results.csv without its second separator


class Row(NamedTuple):
    """An image with captions, in one line of a table.

    Attributes:
        line: Number of the line, from 1.
        name: File name.
        captions: Captions; not checked.
        split: Name of the split, if the table has a column of it.
        image_id: Id of the image, if the table has a column of it.
        mended: Whether the row lacked a separator.
    """

    line: int
    name: Any
    captions: list[Any]
    split: str | None
    image_id: Any
    mended: bool = False


def is_table(path: Path) -> bool:
    """Return True if a file is a table of file names and captions, judged by its first line."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    line = first_line(path)
    if path.suffix.lower() != ".jsonl":
        return find_delimiter(line) is not None
    try:
        content = parse_json(path, line)
    except ValueError:
        return False
    return isinstance(content, dict) and has_columns(content)


def has_columns(names: Mapping[str, Any] | Sequence[str]) -> bool:
    """Return True if there is a column of file names and one of captions."""
    return _first(FILE_COLUMNS, names) is not None and bool(_caption_columns(names))


def find_delimiter(header: str) -> str | None:
    """Return the delimiter with which a header names the two columns, or None if it is no header of a table."""
    return next((mark for mark in DELIMITERS if has_columns(_split_header(header, mark))), None)


def read_table(path: Path) -> Iterator[Row]:
    """Read the rows of a table.

    Raises:
        ValueError: If a row is broken; the message names file and line.
    """
    lines = read_text(path).split("\n")  # not splitlines: a caption may have other separators, which are refused
    return _read_json_lines(path, lines) if path.suffix.lower() == ".jsonl" else _read_delimited(path, lines)


def _read_json_lines(path: Path, lines: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        content = parse_json(path, line, first_line=number)
        if not isinstance(content, dict) or not has_columns(content):
            raise _error(path, number, "the line needs file_name and caption.")
        captions: list[Any] = []
        for column in _caption_columns(content):
            value = content[column]
            captions += value if isinstance(value, list) else [value]
        columns = (_first(names, content) for names in (FILE_COLUMNS, SPLIT_COLUMNS, ID_COLUMNS))
        name, split, image_id = (content[column] if column else None for column in columns)
        yield Row(number, name, captions, split, image_id)


def _read_delimited(path: Path, lines: Sequence[str]) -> Iterator[Row]:
    delimiter = find_delimiter(lines[0])
    if delimiter is None:
        raise _error(path, 1, "the header needs the columns file_name and caption.")
    header = _split_header(lines[0], delimiter)
    name, split, image_id = (_first(names, header) for names in (FILE_COLUMNS, SPLIT_COLUMNS, ID_COLUMNS))
    captions = _caption_columns(header)
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        fields, mended = _mend(_split_line(line.removesuffix("\r"), delimiter), header, delimiter)
        if len(fields) != len(header):
            reason = f"the row has {len(fields)} of {len(header)} fields. Put each caption in one line and in quotes."
            raise _error(path, number, reason)
        row = {column: field.strip() for column, field in zip(header, fields, strict=True)}
        yield Row(
            number,
            row[name or ""],
            [row[column] for column in captions],
            row[split] if split else None,
            _to_number(row[image_id]) if image_id else None,
            mended,
        )


def _error(path: Path, line: int, reason: str) -> ValueError:
    return ValueError(f"{path}, line {line}: {reason}")


def _split_header(line: str, delimiter: str) -> list[str]:
    return [name.strip().strip('"').lower() for name in line.split(delimiter)]


def _split_line(line: str, delimiter: str) -> list[str]:
    """Split one line, so that a quote that is not closed does not swallow the lines after it."""
    if delimiter == "|":  # of results.csv, which has quotes in captions
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter))


def _mend(fields: list[str], header: Sequence[str], delimiter: str) -> tuple[list[str], bool]:
    """Join a caption without quotes that has delimiters; split the number off a caption that lacks a separator.

    Returns:
        The fields, and whether a separator was missing.
    """
    last = len(header) - 1
    if len(fields) > len(header) and _caption_columns(header) == [header[last]]:
        return [*fields[:last], delimiter.join(fields[last:])], False
    if len(fields) == last and (match := NUMBERED_COMMENT.fullmatch(fields[-1].strip())):
        return [*fields[:-1], *match.groups()], True
    return fields, False


def _to_number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text


def _first(names: Sequence[str], columns: Mapping[str, Any] | Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _caption_columns(columns: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return the column of captions, or several numbered ones."""
    one = _first(CAPTION_COLUMNS, columns)
    return [one] if one else [name for name in columns if NUMBERED_CAPTION.fullmatch(name)]

"""The pictures of a job, in a folder or in Parquet files: found first, then read piece by piece.

Ray's own readers end the job at the first file that can't be read, or leave out what stands beside it. Here an error
takes the picture's place.
"""

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyarrow.fs import FileType

from deploy.batch.storage import (
    THREADS,
    BatchJobError,
    Unreadable,
    find_files,
    in_a_line,
    kind,
    open_parquet,
    read_files,
)
from handler.errors import RequestError
from handler.image import FORMATS

SUFFIXES = tuple(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
PIECE = 64  # pictures whose files a task has in memory at once
PICTURE = "picture"


class InvalidParquet(RequestError):
    """A Parquet file, or a part of it, can't be read."""


class Piece(NamedTuple):
    """Some pictures.

    Attributes:
        rows: `picture`, a name that no other picture of the job has, and what is kept of the input.
        images: a file's bytes, or why there are none.
    """

    rows: pa.Table
    images: Sequence[bytes | RequestError]


class Source(ABC):
    """Where pictures come from.

    Attributes:
        schema: of a piece's rows.
        listed: what was found; it stays in the job's own process.
        count: pictures.
    """

    schema: pa.Schema
    listed: Any
    count: int

    @abstractmethod
    def left(self, done: set[str]) -> pa.Table:
        """The work that is left when so many pictures are done; a row stands for one picture or for many."""

    @abstractmethod
    def read(self, work: pa.Table) -> Iterator[Piece]:
        """The pictures that rows of the work stand for."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "listed"}


class Folder(Source):
    """All pictures in a folder, however deep; a picture's name is its path in there.

    Raises:
        BatchJobError: there is no such folder, or no picture in it.
    """

    schema = pa.schema([(PICTURE, pa.string())])

    def __init__(self, folder: str):
        if kind(folder) != FileType.Directory:
            raise BatchJobError(
                f"{folder} is no folder; of Parquet files say with --image-column where their pictures are."
            )
        self.folder, self.listed = folder, find_files(folder, SUFFIXES)
        self.count = len(self.listed)
        if not self.count:
            raise BatchJobError(f"There are no pictures in {folder}: it needs files that end in {', '.join(SUFFIXES)}.")

    def left(self, done: set[str]) -> pa.Table:
        return pa.table({PICTURE: [name for name in self.listed if name not in done]}, self.schema)

    def read(self, work: pa.Table) -> Iterator[Piece]:
        for first in range(0, len(work), PIECE):
            rows = work.slice(first, PIECE)
            yield Piece(rows, read_files(posixpath.join(self.folder, name) for name in rows[PICTURE].to_pylist()))


class ParquetFiles(Source):
    """A Parquet file, or all of them in a folder; a picture's name is its file's path in there, `#`, and its row.

    Args:
        place: a file or a folder.
        column: images' bytes; or their paths, which may be relative to the folder, or URIs; or as Hugging Face's data
            sets have it, a struct of `bytes` and `path`.
        kept: columns that the captions have too.

    Raises:
        BatchJobError: there is nothing of the kind.
    """

    def __init__(self, place: str, column: str, kept: Sequence[str]):
        alone = kind(place) == FileType.File
        self.folder, self.column, self.kept = posixpath.dirname(place) if alone else place, column, list(kept)
        names = [posixpath.basename(place)] if alone else find_files(place, (".parquet",))
        with ThreadPoolExecutor(THREADS) as pool:
            self.listed = dict(zip(names, pool.map(self._footer, names), strict=True))
        readable = [footer for footer in self.listed.values() if footer]
        if not readable:
            raise BatchJobError(f"There is no Parquet file at {place} that can be read.")
        schema = readable[0].schema.to_arrow_schema()
        for name in (column, *kept):
            if name not in schema.names:
                raise BatchJobError(f"There is no column '{name}' at {place}: choose among {', '.join(schema.names)}.")
        self.schema = pa.schema([(PICTURE, pa.string()), *(schema.field(name).with_nullable(True) for name in kept)])
        self.count = sum(footer.num_rows if footer else 1 for footer in self.listed.values())
        if not self.count:
            raise BatchJobError(f"There are no rows at {place}.")

    def left(self, done: set[str]) -> pa.Table:
        work = []
        for name, footer in self.listed.items():
            if footer is None:  # a picture that bears the file's name stands for it
                work += [] if name in done else [{"file": name, "group": None, "first": 0, "rows": [0]}]
                continue
            first = 0
            for group in range(footer.num_row_groups):
                count = footer.row_group(group).num_rows
                rows = [row for row in range(count) if f"{name}#{first + row}" not in done]
                work += [{"file": name, "group": group, "first": first, "rows": rows}] if rows else []
                first += count
        whole = pa.int64()
        schema = [("file", pa.string()), ("group", whole), ("first", whole), ("rows", pa.list_(whole))]
        return pa.Table.from_pylist(work, pa.schema(schema))

    def read(self, work: pa.Table) -> Iterator[Piece]:
        for part in work.to_pylist():
            yield from self._read_group(**part)

    def _read_group(self, file: str, group: int | None, first: int, rows: list[int]) -> Iterator[Piece]:
        """Rows of a row group; from where it can't be read on, errors."""
        path, read = posixpath.join(self.folder, file), 0
        try:
            with open_parquet(path) as parquet:
                columns = list(dict.fromkeys([self.column, *self.kept]))
                for batch in parquet.iter_batches(PIECE, row_groups=[group], columns=columns):
                    here = [row for row in rows if read <= row < read + len(batch)]
                    if here:
                        table = pa.Table.from_batches([batch]).take([row - read for row in here])
                        named = self._rows(table, [f"{file}#{first + row}" for row in here])
                        yield Piece(named, self._images(table[self.column].to_pylist()))
                    read += len(batch)
        except (OSError, pa.ArrowException, KeyError, TypeError) as error:
            broken = [row for row in rows if row >= read]
            reason = InvalidParquet(f"The Parquet file can't be read here: {in_a_line(error)}.")
            yield Piece(self._broken_rows(path, file, group, first, broken), [reason] * len(broken))

    def _broken_rows(self, path: str, file: str, group: int | None, first: int, rows: list[int]) -> pa.Table:
        """Rows without pictures, and what is kept of them: columns are stored apart, so that theirs may be whole."""
        names = [file] if group is None else [f"{file}#{first + row}" for row in rows]
        try:
            with open_parquet(path) as parquet:
                return self._rows(parquet.read_row_group(group, columns=self.kept).take(rows), names)
        except (OSError, pa.ArrowException, KeyError, TypeError):
            return pa.Table.from_pylist([{PICTURE: name} for name in names], self.schema)

    def _rows(self, table: pa.Table, names: list[str]) -> pa.Table:
        if not self.kept:
            return pa.table({PICTURE: names}, self.schema)
        return table.select(self.kept).add_column(0, PICTURE, [names]).cast(self.schema)

    def _images(self, cells: list[Any]) -> list[bytes | RequestError]:
        found = [(cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell for cell in cells]
        paths = [
            cell if "://" in cell else posixpath.join(self.folder, cell) for cell in found if isinstance(cell, str)
        ]
        files = iter(read_files(paths))
        return [self._image(next(files) if isinstance(cell, str) else cell) for cell in found]

    @staticmethod
    def _image(cell: Any) -> bytes | RequestError:
        if cell is None:
            return Unreadable("The row has no picture.")
        return cell if isinstance(cell, bytes | RequestError) else Unreadable("The row has neither bytes nor a path.")

    def _footer(self, name: str) -> pq.FileMetaData | None:
        try:
            with open_parquet(posixpath.join(self.folder, name)) as parquet:
                return parquet.metadata
        except (OSError, pa.ArrowException):
            return None

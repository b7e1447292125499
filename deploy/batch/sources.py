"""Image sources of a batch job: list a directory or Parquet files first, then read them in chunks.

The readers of Ray Data end the job at the first unreadable file, or drop it. Here an error takes the place of the
image.
"""

import os
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pyarrow.fs import FileType  # type: ignore[import-untyped]

from deploy.batch.storage import (
    THREADS,
    BatchJobError,
    Unreadable,
    display_name,
    file_type,
    find_files,
    one_line,
    open_parquet,
    read_files,
)
from handler.errors import RequestError
from handler.image_suffixes import IMAGE_SUFFIXES

CHUNK_SIZE = 64  # images whose files a task holds in memory at once
IMAGE_COLUMN = "image"  # output column with the name of the image
PATH_COLUMN = "path"  # column of the work that remains with the path of an image, as bytes


class InvalidParquet(RequestError):
    """A Parquet file, or a part of it, cannot be read."""


class ImageChunk(NamedTuple):
    """Some images of a source.

    Attributes:
        rows: Column `image`, a name that is unique in the job, and the kept columns of the input.
        images: Encoded image file of each row, or the error that replaces it.
    """

    rows: pa.Table
    images: Sequence[bytes | RequestError]


class ImageSource(ABC):
    """A collection of images.

    Attributes:
        schema: Schema of `ImageChunk.rows`.
        listing: What was found; it is not sent to other processes.
        count: Number of images.
    """

    schema: pa.Schema
    listing: Any
    count: int

    @abstractmethod
    def remaining(self, done: AbstractSet[str]) -> pa.Table:
        """Return the work that remains, given the names of finished images. A row is one or several images."""

    @abstractmethod
    def read(self, pending: pa.Table) -> Iterator[ImageChunk]:
        """Read the images of some rows of `remaining`."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "listing"}


class ImageFolder(ImageSource):
    """All images in a directory tree. The name of an image is its path relative to the directory.

    The work that remains has the path as bytes, too, because a file name need not be UTF-8 and text in Arrow must be.

    Raises:
        BatchJobError: If there is no such directory, or no image in it.
    """

    schema = pa.schema([(IMAGE_COLUMN, pa.string())])

    def __init__(self, directory: str) -> None:
        if file_type(directory) != FileType.Directory:
            raise BatchJobError(
                f"{directory} is not a directory. For Parquet files, name the column of the images: --image-column"
            )
        self.directory, self.listing = directory, find_files(directory, tuple(IMAGE_SUFFIXES))
        self.count = len(self.listing)
        if not self.count:
            raise BatchJobError(
                f"No image found in {directory}. File names have to end in {', '.join(sorted(IMAGE_SUFFIXES))}."
            )

    def remaining(self, done: AbstractSet[str]) -> pa.Table:
        """See `ImageSource.remaining`; a row is one image."""
        names = [(display_name(path), os.fsencode(path)) for path in self.listing]
        pending = [(name, path) for name, path in names if name not in done]
        columns = {IMAGE_COLUMN: [name for name, _ in pending], PATH_COLUMN: [path for _, path in pending]}
        return pa.table(columns, self.schema.append(pa.field(PATH_COLUMN, pa.binary())))

    def read(self, pending: pa.Table) -> Iterator[ImageChunk]:
        """See `ImageSource.read`."""
        for first in range(0, len(pending), CHUNK_SIZE):
            rows = pending.slice(first, CHUNK_SIZE)
            paths = [os.fsdecode(path) for path in rows[PATH_COLUMN].to_pylist()]
            images = read_files(posixpath.join(self.directory, path) for path in paths)
            yield ImageChunk(rows.select([IMAGE_COLUMN]), images)


class ParquetFiles(ImageSource):
    """A Parquet file, or all Parquet files in a directory tree.

    The name of an image is the relative path of its file, `#`, and the row number.

    Args:
        location: File or directory.
        column: Column of the images. A cell holds the bytes; or a path, relative to the directory, or a URI; or a
            struct of `bytes` and `path`, as in Hugging Face datasets.
        keep: Columns to copy to the output.

    Raises:
        BatchJobError: If there is no readable Parquet file, no such column, or no row.
    """

    def __init__(self, location: str, column: str, keep: Sequence[str]) -> None:
        single = file_type(location) == FileType.File
        self.directory = posixpath.dirname(location) if single else location
        self.column, self.keep = column, list(keep)
        names = [posixpath.basename(location)] if single else find_files(location, (".parquet",))
        for name in names:
            if display_name(name) != name:
                raise BatchJobError(f"{display_name(name)} has a name that is not UTF-8. Rename the file.")
        with ThreadPoolExecutor(THREADS) as pool:
            self.listing = dict(zip(names, pool.map(self._read_footer, names), strict=True))
        readable = [footer for footer in self.listing.values() if footer]
        if not readable:
            raise BatchJobError(f"No readable Parquet file found at {location}.")
        schema = readable[0].schema.to_arrow_schema()
        for name in (column, *keep):
            if name not in schema.names:
                raise BatchJobError(f"No column '{name}' at {location}. Valid columns: {', '.join(schema.names)}.")
        kept = [schema.field(name).with_nullable(True) for name in keep]
        self.schema = pa.schema([(IMAGE_COLUMN, pa.string()), *kept])
        self.count = sum(footer.num_rows if footer else 1 for footer in self.listing.values())
        if not self.count:
            raise BatchJobError(f"The Parquet files at {location} have no rows.")

    def remaining(self, done: AbstractSet[str]) -> pa.Table:
        """See `ImageSource.remaining`; a row is the images of a row group."""
        pending = []
        for name, footer in self.listing.items():
            if footer is None:  # an unreadable file counts as one image with the name of the file
                if name not in done:
                    pending.append({"file": name, "group": None, "first": 0, "rows": [0]})
                continue
            first = 0
            for group in range(footer.num_row_groups):
                count = footer.row_group(group).num_rows
                rows = [row for row in range(count) if f"{name}#{first + row}" not in done]
                if rows:
                    pending.append({"file": name, "group": group, "first": first, "rows": rows})
                first += count
        integer = pa.int64()
        schema = [("file", pa.string()), ("group", integer), ("first", integer), ("rows", pa.list_(integer))]
        return pa.Table.from_pylist(pending, pa.schema(schema))

    def read(self, pending: pa.Table) -> Iterator[ImageChunk]:
        """See `ImageSource.read`."""
        for row in pending.to_pylist():
            yield from self._read_group(**row)

    def _read_group(self, file: str, group: int | None, first: int, rows: list[int]) -> Iterator[ImageChunk]:
        """Read rows of a row group. From the first unreadable page on, all rows are errors."""
        path, num_read = posixpath.join(self.directory, file), 0
        try:
            with open_parquet(path) as parquet:
                columns = list(dict.fromkeys([self.column, *self.keep]))
                for batch in parquet.iter_batches(CHUNK_SIZE, row_groups=[group], columns=columns):
                    selected = [row for row in rows if num_read <= row < num_read + len(batch)]
                    if selected:
                        table = pa.Table.from_batches([batch]).take([row - num_read for row in selected])
                        named = self._to_rows(table, [f"{file}#{first + row}" for row in selected])
                        yield ImageChunk(named, self._read_images(table[self.column].to_pylist()))
                    num_read += len(batch)
        except (OSError, pa.ArrowException, KeyError, TypeError) as error:
            unread = [row for row in rows if row >= num_read]
            reason = InvalidParquet(f"The Parquet file cannot be read here: {one_line(error)}.")
            yield ImageChunk(self._rows_without_images(path, file, group, first, unread), [reason] * len(unread))

    def _rows_without_images(self, path: str, file: str, group: int | None, first: int, rows: list[int]) -> pa.Table:
        """Return rows whose images are unreadable; the kept columns are stored separately and may be intact."""
        names = [file] if group is None else [f"{file}#{first + row}" for row in rows]
        try:
            with open_parquet(path) as parquet:
                return self._to_rows(parquet.read_row_group(group, columns=self.keep).take(rows), names)
        except (OSError, pa.ArrowException, KeyError, TypeError):
            return pa.Table.from_pylist([{IMAGE_COLUMN: name} for name in names], self.schema)

    def _to_rows(self, table: pa.Table, names: list[str]) -> pa.Table:
        if not self.keep:
            return pa.table({IMAGE_COLUMN: names}, self.schema)
        return table.select(self.keep).add_column(0, IMAGE_COLUMN, [names]).cast(self.schema)

    def _read_images(self, cells: list[Any]) -> list[bytes | RequestError]:
        values = [(cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell for cell in cells]
        paths = [
            value if "://" in value else posixpath.join(self.directory, value)
            for value in values
            if isinstance(value, str)
        ]
        files = iter(read_files(paths))
        return [self._to_image(next(files) if isinstance(value, str) else value) for value in values]

    @staticmethod
    def _to_image(value: object) -> bytes | RequestError:
        if value is None:
            return Unreadable("The row has no image.")
        return value if isinstance(value, bytes | RequestError) else Unreadable("The row has neither bytes nor a path.")

    def _read_footer(self, name: str) -> pq.FileMetaData | None:
        try:
            with open_parquet(posixpath.join(self.directory, name)) as parquet:
                return parquet.metadata
        except (OSError, pa.ArrowException):
            return None

"""Files here and elsewhere: local paths, and URIs of pyarrow's file systems, s3://…, gs://…, hdfs://…."""

import os
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from handler.errors import RequestError, TooLarge

MAX_BYTES = 20_000_000  # of a picture's file
THREADS = 8  # files opened at once: remote storage makes each wait


class BatchJobError(Exception):
    """The job can't be done as it was asked for; the message is one clear sentence."""


class Unreadable(RequestError):
    """Storage does not give the picture."""


@cache
def _filesystem(root: str) -> tuple[FileSystem, str]:
    return FileSystem.from_uri(root)


def locate(uri: str) -> tuple[FileSystem, str]:
    """A path or URI → its file system, and the path in there.

    Raises:
        OSError: there is no such storage.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalFileSystem(), os.path.abspath(uri)
    root, _, path = rest.partition("/")
    try:
        filesystem, base = _filesystem(f"{scheme}://{root or '/'}")
    except pa.ArrowException as error:
        raise OSError(in_a_line(error)) from error
    return filesystem, posixpath.join(base, path)


def kind(uri: str) -> FileType:
    """Whether there is a file, a folder, or nothing.

    Raises:
        BatchJobError: its storage can't be asked.
    """
    try:
        filesystem, path = locate(uri)
        return filesystem.get_file_info(path).type
    except (OSError, pa.ArrowException) as error:
        raise BatchJobError(f"{uri} can't be read: {in_a_line(error)}.") from error


def find_files(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Paths, relative to a folder, of its files with such suffixes, however deep, in order.

    Raises:
        BatchJobError: the folder can't be read.
    """
    try:
        filesystem, path = locate(folder)
        infos = filesystem.get_file_info(FileSelector(path, recursive=True))
        found = [info.path for info in infos if info.is_file and info.path.lower().endswith(suffixes)]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise BatchJobError(f"{folder} can't be read: {in_a_line(error)}.") from error
    return sorted(posixpath.relpath(name, path) for name in found)


def read_files(uris: Iterable[str]) -> list[bytes | RequestError]:
    """Files' bytes, or in a file's place why it can't be read."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_read_file, uris))


def _read_file(uri: str) -> bytes | RequestError:
    try:
        filesystem, path = locate(uri)
        info = filesystem.get_file_info(path)
        if not info.is_file:  # a device or a pipe would never end
            return Unreadable("There is no such file.")
        if info.size > MAX_BYTES:
            return TooLarge(f"The picture has {info.size} bytes, more than the {MAX_BYTES} allowed.")
        with filesystem.open_input_file(path) as file:
            return file.read()
    except (OSError, pa.ArrowException, ValueError) as error:
        return Unreadable(f"{in_a_line(error)}.")


def open_parquet(uri: str) -> pq.ParquetFile:
    """A Parquet file, read through a buffer: a row group of it may be larger than memory.

    Raises:
        OSError: it can't be read.
        pa.ArrowInvalid: it is none, or has no end.
    """
    filesystem, path = locate(uri)
    return pq.ParquetFile(filesystem.open_input_file(path), buffer_size=1 << 20)


def in_a_line(error: Exception) -> str:
    """What an error says, without line breaks and full stop."""
    return " ".join(str(error).split()).rstrip(".")

"""File access for local paths and for URIs of pyarrow file systems: s3://…, gs://…, hdfs://…."""

import os
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NoReturn

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem  # type: ignore[import-untyped]

from handler.errors import RequestError, TooLarge

MAX_BYTES = 20_000_000  # bytes of an image file
THREADS = 8  # files opened at once: remote storage responds slowly to each


class BatchJobError(Exception):
    """The job cannot be run as requested. The message is one sentence."""


class Unreadable(RequestError):
    """The image cannot be read from storage."""


@cache
def _filesystem(root: str) -> tuple[FileSystem, str]:
    filesystem, path = FileSystem.from_uri(root)
    return filesystem, path


def resolve_uri(uri: str) -> tuple[FileSystem, str]:
    """Resolve a path or URI to its file system and the path in that file system.

    Raises:
        OSError: If there is no such storage.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalFileSystem(), os.path.abspath(uri)  # noqa: PTH100 - Path.absolute keeps "..", pyarrow wants a str
    root, _, path = rest.partition("/")
    try:
        filesystem, base = _filesystem(f"{scheme}://{root or '/'}")
    except pa.ArrowException as error:
        raise OSError(one_line(error)) from error
    return filesystem, posixpath.join(base, path)


def file_type(uri: str) -> FileType:
    """Return whether a path or URI is a file, a directory or missing.

    Raises:
        BatchJobError: If its storage cannot be reached.
    """
    try:
        if _is_local(uri):
            local = Path(uri)
            return FileType.Directory if local.is_dir() else FileType.File if local.is_file() else FileType.NotFound
        filesystem, path = resolve_uri(uri)
        return filesystem.get_file_info(path).type
    except (OSError, pa.ArrowException) as error:
        raise BatchJobError(f"{uri} cannot be read: {one_line(error)}.") from error


def find_files(directory: str, suffixes: tuple[str, ...]) -> list[str]:
    """List files with certain suffixes in a directory tree, as sorted relative paths.

    Names of local files need not be UTF-8; such bytes are surrogates, as Python has them.

    Raises:
        BatchJobError: If the directory cannot be read.
    """
    if _is_local(directory):
        return _find_local_files(directory, suffixes)
    try:
        filesystem, root = resolve_uri(directory)
        infos = filesystem.get_file_info(FileSelector(root, recursive=True))
        paths = [info.path for info in infos if info.is_file and info.path.lower().endswith(suffixes)]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise BatchJobError(f"{directory} cannot be read: {one_line(error)}.") from error
    return sorted(posixpath.relpath(path, root) for path in paths)


def _is_local(uri: str) -> bool:
    return "://" not in uri


def _find_local_files(directory: str, suffixes: tuple[str, ...]) -> list[str]:
    """As `find_files`; pyarrow fails on a directory in which a single name is not UTF-8."""

    def refuse(error: OSError) -> NoReturn:
        raise BatchJobError(f"{error.filename} cannot be read: {error.strerror}.") from error

    return sorted(
        os.path.relpath(os.path.join(parent, name), directory)  # noqa: PTH118 - a million of them
        for parent, _, names in os.walk(directory, onerror=refuse, followlinks=True)
        for name in names
        if name.lower().endswith(suffixes) and os.path.isfile(os.path.join(parent, name))  # noqa: PTH113, PTH118
    )


def display_name(name: str) -> str:
    r"""Return a file name as text for the output; bytes that are not UTF-8 are shown as `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_files(uris: Iterable[str]) -> list[bytes | RequestError]:
    """Read files in parallel. A file that cannot be read is represented by its error."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_read_file, uris))


def _read_file(uri: str) -> bytes | RequestError:
    try:
        if _is_local(uri):
            return _read_local_file(Path(uri))
        filesystem, path = resolve_uri(uri)
        info = filesystem.get_file_info(path)
        if not info.is_file:  # reading a device or a pipe would never end
            return Unreadable("There is no such file.")
        if info.size > MAX_BYTES:
            return _too_large(info.size)
        with filesystem.open_input_file(path) as file:
            return bytes(file.read())
    except (OSError, pa.ArrowException, ValueError) as error:
        return Unreadable(f"{one_line(error)}.")


def _read_local_file(path: Path) -> bytes | RequestError:
    if not path.is_file():
        return Unreadable("There is no such file.")
    if (size := path.stat().st_size) > MAX_BYTES:
        return _too_large(size)
    return path.read_bytes()


def _too_large(size: int) -> TooLarge:
    return TooLarge(f"The image has {size} bytes. At most {MAX_BYTES} are allowed.")


def open_parquet(uri: str) -> pq.ParquetFile:
    """Open a Parquet file with a read buffer, because a row group may be larger than memory.

    Raises:
        OSError: If the file cannot be read.
        pa.ArrowInvalid: If it is not a Parquet file or is truncated.
    """
    filesystem, path = resolve_uri(uri)
    return pq.ParquetFile(filesystem.open_input_file(path), buffer_size=1 << 20)


def one_line(error: Exception) -> str:
    """Return the message of an error without line breaks and without the final period."""
    return " ".join(str(error).split()).rstrip(".")

"""Helpers for files and command lines: write atomically, hold a lock, parse `name=value`."""

import fcntl
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block succeeds; a failure leaves `path` unchanged."""
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as directory:
        temporary = Path(directory, path.name)
        yield temporary
        temporary.replace(path)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file completely or not at all, also if the process is killed or the disk is full."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def lock_file(file: IO[Any], *, wait: bool = False) -> None:
    """Lock an open file exclusively until it is closed or the process ends.

    Args:
        file: File opened for writing.
        wait: Whether to wait for another process to release its lock.

    Raises:
        BlockingIOError: If another process holds the lock and `wait` is False.
    """
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


@contextmanager
def file_lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on a lock file, which is created if missing; errors as in `lock_file`."""
    with path.open("a") as file:
        lock_file(file, wait=wait)
        yield


def parse_key_values(texts: Iterable[str]) -> dict[str, str]:
    """Parse `name=value` arguments.

    Raises:
        ValueError: If a text has no `=` or no name.
    """
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"Options are written as name=value, not '{text}'.")
        values[name] = value
    return values

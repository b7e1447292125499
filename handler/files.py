"""Atomic file writes and inter-process locks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LockedError(Exception):
    """Another process holds a lock."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file completely or not at all: a kill or a full disk leaves the previous file.

    Args:
        path: The file to write.

    Yields:
        A temporary path in the same directory. The block writes it; it replaces `path` if the block succeeds and is
        removed if the block raises.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file completely or not at all; see `atomic_write`."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def exclusive_lock(path: Path, timeout: float | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file while the block runs. The kernel releases it when the process ends.

    Args:
        path: The lock file; created if missing, and never removed.
        timeout: Seconds to wait for another holder; 0 tries once, None waits without limit.

    Raises:
        LockedError: If another process holds the lock after `timeout`.
    """
    import fcntl  # missing on Windows, which everything else in this package can run on

    with path.open("w") as file:
        if timeout is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            deadline = time.monotonic() + timeout
            while not _try_lock(file.fileno()):
                if time.monotonic() >= deadline:
                    raise LockedError(f"Another process holds {path}.")
                time.sleep(0.1)
        yield


def _try_lock(file: int) -> bool:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

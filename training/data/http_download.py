"""Fetches a large file over HTTP: streamed, going on where it broke off, kept only if its digest is the right one."""

import hashlib
import os
import re
import sys
import time
from pathlib import Path

import requests
from tqdm import tqdm

CHUNK = 1 << 16  # bytes held in memory, and lost at most where a connection breaks
PROGRESS = 1 << 20  # bytes that an attempt must bring so that the failures before it are forgotten
FAILURES = 6  # attempts in a row without progress until it gives up
TIMEOUT = (15, 60)  # seconds to connect, and of silence
PASSING = {408, 425, 429}  # answers that may be another one a little later, besides all of 5xx


class DownloadError(Exception):
    """A file can't be had; the message says why."""


class _BrokenOff(Exception):
    """An attempt ended before the file did; another may go on."""


def fetch(url: str, target: Path, *, size: int, sha256: str, pause: float = 1.0) -> None:
    """Brings a file to `target`, unless it is there and whole.

    What came so far is `<target>.partial`. `<target>.verified` notes which file had the right digest, so that a large
    one is not read again at each start. A file that lies at `target` without this note is checked like one that came.

    No more than `size` bytes are ever written, whatever the server says or sends.

    Args:
        url: http or https, and so is all that it redirects to; certificates are verified.
        target: in a folder that exists.
        size: the file's bytes.
        sha256: the file's digest, in hexadecimal.
        pause: seconds before the first new attempt, doubled with each further one that brings nothing.

    Raises:
        DownloadError: the server refuses, brings nothing several times in a row, or has another file, twice.
        OSError: it can't be written; what came so far is kept.
    """
    partial, validator = target.with_name(f"{target.name}.partial"), target.with_name(f"{target.name}.validator")
    verified = target.with_name(f"{target.name}.verified")
    if target.exists():
        if verified.exists() and verified.read_text() == _note(target, sha256):
            return
        validator.unlink(missing_ok=True)
        target.replace(partial)
    for _ in range(2):  # a wrong file may be one that was damaged on its way: it gets a second chance, from the start
        _complete(url, partial, validator, size, pause)
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())  # the note below must not outlive the bytes in a power failure
        if found == sha256:
            partial.replace(target)
            verified.write_text(_note(target, sha256))
            validator.unlink(missing_ok=True)
            return
        partial.unlink()
    validator.unlink(missing_ok=True)
    raise DownloadError(f"{url} is not the file that was expected: its SHA-256 is {found}, not {sha256}.")


def _note(path: Path, sha256: str) -> str:
    """What `.verified` holds: the digest, and what changes when the file does."""
    status = path.stat()
    return f"{sha256} {status.st_size} {status.st_mtime_ns}"


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _complete(url: str, partial: Path, validator: Path, size: int, pause: float) -> None:
    """Attempts until the partial file has all its bytes."""
    furthest, failures = _length(partial), 0
    while _length(partial) < size:
        try:
            _attempt(url, partial, validator, size)
            continue
        except (_BrokenOff, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as e:
            reason = _reason(e)
        except requests.RequestException as error:  # a redirect to another protocol or in circles, no valid address
            raise DownloadError(f"{url} can't be fetched: {_reason(error)}.") from error
        # Only what was never reached before is progress: a server may begin anew each time and break off each time.
        if _length(partial) >= furthest + PROGRESS:
            furthest, failures = _length(partial), 0
        else:
            failures += 1
        if failures == FAILURES:
            raise DownloadError(
                f"{url} was tried {FAILURES} times without progress, the last time: {reason}. "
                f"{_length(partial):,} of {size:,} bytes are kept: the same command goes on there."
            )
        delay = pause * 2 ** max(failures - 1, 0)
        tqdm.write(f"{partial.stem}: {reason}; again in {delay:.0f} s.", file=sys.stderr)
        time.sleep(delay)


def _attempt(url: str, partial: Path, validator: Path, size: int) -> None:
    """One request for what is missing; returns when the partial file has all its bytes."""
    have = _length(partial)
    headers = {"Accept-Encoding": "identity"}  # the file's own bytes, which ranges count
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator.exists():  # a file that changed since is then sent whole, with 200
            headers["If-Range"] = validator.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status == 416:
            partial.unlink(missing_ok=True)
            raise _BrokenOff(f"the server refused to go on at byte {have:,}")
        if status in PASSING or status >= 500:
            raise _BrokenOff(f"the server answered {status} {response.reason}")
        if status not in (200, 206):
            raise DownloadError(f"{url} can't be fetched: the server answered {status} {response.reason}.")
        if status == 206 and not _continues(response, have, size):
            partial.unlink(missing_ok=True)
            raise _BrokenOff(f"asked to go on at byte {have:,}, the server sent another part or another file's")
        if status == 200:  # all of it, also where a part was asked for
            if (declared := response.headers.get("Content-Length", str(size))) != str(size):
                # What came so far stays: this may be a page of a network that wants a login, and no file of ours.
                raise _BrokenOff(f"the server has a file of {declared} bytes there, not {size}")
            have = 0
        with (
            partial.open("ab" if have else "wb") as file,
            tqdm(
                total=size, initial=have, desc=partial.stem, unit="B", unit_scale=True, unit_divisor=1024, disable=None
            ) as bar,
        ):
            if not have:  # the file is empty now, so that a validator never stands beside another file's bytes
                _remember(response, validator)
            for chunk in response.iter_content(CHUNK):
                written = file.write(chunk[: size - have])
                have += written
                bar.update(written)
                if have == size:
                    return
    raise _BrokenOff(f"the server's answer ended after {have:,} of {size:,} bytes")


def _continues(response: requests.Response, have: int, size: int) -> bool:
    """Whether a partial answer begins at the byte that was asked for, of a file with the right size."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == have and match[2] in ("*", str(size))


def _remember(response: requests.Response, validator: Path) -> None:
    """Keeps what tells this version of the file from others: a strong ETag, or else the time of its last change."""
    tag = response.headers.get("ETag", "")
    if value := tag if tag.startswith('"') else response.headers.get("Last-Modified", ""):
        validator.write_text(value)
    else:
        validator.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    """What went wrong in the end, without the layers of exceptions around it."""
    inner = getattr(error, "reason", None) or (error.args[0] if error.args else "")
    if isinstance(inner, BaseException):
        return _reason(inner)
    return (inner if isinstance(inner, str) and not isinstance(error, OSError) else str(error)).rstrip(".")

"""Download large files over HTTP: resumable, with retries, accepted only if the SHA-256 matches."""

import hashlib
import sys
import time
from pathlib import Path

import requests
from tqdm import tqdm

CHUNK = 1 << 16  # bytes read at a time
ATTEMPTS = 6  # in a row without a new byte
TIMEOUT = (15, 60)  # seconds to connect, and between two reads


class DownloadError(Exception):
    """A file cannot be downloaded."""


def download_file(url: str, target: Path, *, size: int, sha256: str, pause: float = 1.0) -> None:
    """Download a file, unless it exists with the right SHA-256.

    An interrupted download is kept as `<target>.partial` and resumes at its last byte. At most `size` bytes are
    written, whatever the server sends.

    Args:
        url: URL to download; redirects are followed.
        target: File to write, in an existing directory.
        size: Size of the file in bytes.
        sha256: SHA-256 of the file, in hexadecimal.
        pause: Seconds before the first retry, doubled with each further one.

    Raises:
        DownloadError: If the server refuses, sends nothing new several times in a row, or sends another file.
        OSError: If the file cannot be written; the partial download is kept.
    """
    partial = target.with_name(f"{target.name}.partial")
    if target.exists():
        if _sha256(target) == sha256:
            return
        target.unlink()
    failures = 0
    while (offset := _size(partial)) < size:
        try:
            _transfer(url, partial, offset, size)
            reason = "the connection was closed early"
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            reason = str(error)
        except requests.RequestException as error:  # e.g. a redirect loop or another protocol
            raise DownloadError(f"{url} cannot be downloaded: {error}.") from error
        if (received := _size(partial)) == size:
            break
        failures = 0 if received > offset else failures + 1
        if failures == ATTEMPTS:
            raise DownloadError(
                f"{url} failed {ATTEMPTS} times, at last: {reason}. {received:,} of {size:,} bytes are kept; run the "
                "same command again to resume."
            )
        delay = pause * 2**failures
        tqdm.write(f"{target.name}: {reason}; retrying in {delay:.0f} s.", file=sys.stderr)
        time.sleep(delay)
    if (digest := _sha256(partial)) != sha256:
        partial.unlink()
        raise DownloadError(f"{url} has the SHA-256 {digest}, not {sha256}. Run the same command again to retry.")
    partial.replace(target)


def _transfer(url: str, partial: Path, offset: int, size: int) -> None:
    """Send one request for the missing bytes and append them."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = f"the server responded {response.status_code} {response.reason}"
        if response.status_code == 416:  # the file of the server is shorter, so the partial one is of another file
            partial.unlink()
        if response.status_code in (408, 416, 429) or response.status_code >= 500:
            raise requests.ConnectionError(status)
        if response.status_code not in (200, 206):
            raise DownloadError(f"{url} cannot be downloaded: {status}.")
        if response.status_code == 200:  # the server ignored the range, so its body starts at the first byte
            offset = 0
        with (
            partial.open("ab" if offset else "wb") as file,
            tqdm(total=size, initial=offset, desc=partial.stem, unit="B", unit_scale=True, disable=None) as bar,
        ):
            for chunk in response.iter_content(CHUNK):
                bar.update(file.write(chunk[: size - file.tell()]))
                if file.tell() >= size:
                    return


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

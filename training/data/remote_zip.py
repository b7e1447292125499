"""Extract single files of a zip on a server by HTTP byte ranges, so that nothing else is downloaded or stored."""

import io
import shutil
import struct
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import NameResolutionError

from handler.files import atomic_write

ATTEMPTS = 6  # of a request
THREADS = 8  # requests at a time
TIMEOUT = (15, 60)  # seconds to connect, and between two reads
MAX_RANGE = 1 << 23  # bytes of a request for several files
MAX_FILE = 1 << 29  # bytes of an unpacked file


class DownloadError(Exception):
    """A file cannot be downloaded."""


class RemoteZip:
    """A zip on a server. Each file is checked by the size and CRC-32 in the directory of the zip.

    Args:
        url: URL of the zip; the server must support byte ranges.
        size: Size of the zip in bytes; a zip of another size is refused.
        pause: Seconds before the first retry of a request, doubled with each further one.

    Raises:
        DownloadError: If the server cannot be reached, or the file is not this zip.
    """

    def __init__(self, url: str, size: int, pause: float = 1.0) -> None:
        self.url, self.size, self.pause = url, size, pause
        self._reached = False  # whether the server has responded
        self._session, self._stopped = requests.Session(), threading.Event()
        self._session.mount("https://", HTTPAdapter(pool_maxsize=THREADS))
        try:
            reader = io.BufferedReader(_RangeFile(self._fetch, size))  # type: ignore[type-var]
            with zipfile.ZipFile(reader) as archive:
                members = sorted(archive.infolist(), key=lambda member: member.header_offset)
                ends = [*(member.header_offset for member in members[1:]), archive.start_dir]
        except zipfile.BadZipFile as error:
            raise DownloadError(f"{url} is not a zip: {error}.") from error
        self._members = {member.filename: (member, end) for member, end in zip(members, ends, strict=True)}

    def read(self, name: str) -> bytes:
        """Return the content of one file.

        Raises:
            DownloadError: If the zip does not hold it, or it cannot be downloaded.
        """
        [(start, stop, [member])] = self._ranges([name])
        return self._unpack(member, self._fetch(start, stop))

    def download_size(self, names: Mapping[str, Path]) -> int:
        """Return the bytes to download for files; errors as in `read`."""
        return sum(stop - start for start, stop, _ in self._ranges(names))

    def extract(self, targets: Mapping[str, Path]) -> None:
        """Write files, each completely or not at all, so that another call can resume with those that are missing.

        Args:
            targets: Path to write for each name in the zip.

        Raises:
            DownloadError: If the zip lacks a file, the disk lacks the space, or a file cannot be downloaded.
            OSError: If a file cannot be written.
        """
        self._stopped.clear()
        ranges = list(self._ranges(targets))
        unpacked = sum(self._members[name][0].file_size for name in targets)
        for directory in {path.parent for path in targets.values()}:
            directory.mkdir(parents=True, exist_ok=True)
            if unpacked > (free := shutil.disk_usage(directory).free):
                raise DownloadError(f"{directory} needs {unpacked:,} bytes; its disk has {free:,} bytes left.")

        def extract_range(start: int, stop: int, members: list[zipfile.ZipInfo]) -> int:
            block = self._fetch(start, stop)
            for member in members:
                with atomic_write(targets[member.filename]) as partial:
                    partial.write_bytes(self._unpack(member, block[member.header_offset - start :]))
            return stop - start

        total = sum(stop - start for start, stop, _ in ranges)
        bar = tqdm(total=total, desc=self.url.rsplit("/", 1)[1], unit="B", unit_scale=True, disable=None)
        with bar, ThreadPoolExecutor(THREADS) as pool:
            try:
                for done in as_completed([pool.submit(extract_range, *item) for item in ranges]):
                    bar.update(done.result())
            except BaseException:
                self._stopped.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _ranges(self, names: Mapping[str, Path] | list[str]) -> Iterator[tuple[int, int, list[zipfile.ZipInfo]]]:
        """Yield start, stop and files of byte ranges; neighbours share one of at most `MAX_RANGE` bytes."""
        if missing := next((name for name in names if name not in self._members), None):
            raise DownloadError(f"{self.url} holds no {missing}.")
        wanted = sorted((self._members[name] for name in names), key=lambda item: item[1])
        start, stop, members = 0, 0, list[zipfile.ZipInfo]()
        for member, end in wanted:
            if member.file_size > MAX_FILE:
                raise DownloadError(f"{member.filename} in {self.url} would unpack to {member.file_size:,} bytes.")
            if members and (member.header_offset > stop or end - start > MAX_RANGE):
                yield start, stop, members
                members = []
            start, stop, members = start if members else member.header_offset, end, [*members, member]
        if members:
            yield start, stop, members

    def _unpack(self, member: zipfile.ZipInfo, block: bytes) -> bytes:
        """Unpack a file from the bytes that start with its local header."""
        name_length, extra_length = struct.unpack_from("<HH", block, 26)  # APPNOTE.TXT 4.3.7
        first = 30 + name_length + extra_length
        content = block[first : first + member.compress_size]
        try:
            if member.compress_type == zipfile.ZIP_DEFLATED:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.file_size + 1)
        except zlib.error:
            content = b""
        if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
            raise DownloadError(f"{member.filename} in {self.url} is damaged. Run the same command again to retry.")
        return content

    def _fetch(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to before `stop`; a failed request is repeated."""
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                delay = self.pause * 2 ** (attempt - 1)
                tqdm.write(f"{self.url}: {reason}; retrying in {delay:.0f} s.", file=sys.stderr)
                self._stopped.wait(delay)
            if self._stopped.is_set():
                break
            try:
                body = self._request(start, stop)
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                cause = _root_cause(error)
                if isinstance(cause, NameResolutionError) and not self._reached:
                    host = urlsplit(self.url).hostname
                    raise DownloadError(f"{host} is not found: connect this machine to the internet.") from error
                reason = str(cause).rstrip(".")
                continue
            except requests.RequestException as error:  # e.g. a redirect loop or another protocol
                raise DownloadError(f"{self.url} cannot be downloaded: {error}.") from error
            self._reached = True
            if len(body) == stop - start:
                return body
            reason = "the connection was closed early"
        raise DownloadError(
            f"{self.url} failed {ATTEMPTS} times, at last: {reason}. Run the same command again to resume."
        )

    def _request(self, start: int, stop: int) -> bytes:
        """Send one request for a byte range; return at most its length."""
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
        with self._session.get(self.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            status = f"the server responded {response.status_code} {response.reason}"
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise requests.ConnectionError(status)
            if response.status_code == 200:
                status = "the server, or a proxy, does not support byte ranges"
            if response.status_code != 206:
                raise DownloadError(f"{self.url} cannot be downloaded: {status}.")
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            if total != str(self.size):
                raise DownloadError(f"{self.url} has {total or 'no'} bytes, not {self.size}: it was replaced.")
            body = bytearray()
            for chunk in response.iter_content(1 << 16):
                body += chunk
                if len(body) >= stop - start or self._stopped.is_set():
                    break
            return bytes(body[: stop - start])


def _root_cause(error: Exception) -> Exception:
    """Return the innermost error of a request, which requests and urllib3 wrap."""
    inner = [getattr(error, "reason", None), *error.args]
    cause = next((one for one in inner if isinstance(one, Exception)), None)
    return _root_cause(cause) if cause else error


class _RangeFile(io.RawIOBase):
    """A seekable file of byte ranges, from which `zipfile` reads the directory of a zip."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch, self._size, self._position = fetch, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        stop = min(self._position + len(buffer), self._size)
        body = self._fetch(self._position, stop) if stop > self._position else b""
        buffer[: len(body)] = body
        self._position += len(body)
        return len(body)

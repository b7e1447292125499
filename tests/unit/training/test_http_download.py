"""Downloads from a local server with faults: resumed, retried, and accepted only with the right SHA-256."""

import random

import pytest

from tests.unit.training.file_server import FileServer, sha256
from training.data.http_download import ATTEMPTS, CHUNK, DownloadError, download_file

BODY = random.Random(0).randbytes(10 * CHUNK + 123)
OTHER = BODY[:-1] + bytes([BODY[-1] ^ 1])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = FileServer()
    server.files["/file"] = BODY
    yield server
    server.close()


@pytest.fixture
def download(server, tmp_path):
    """Download /file to tmp_path/file."""

    def download(url=f"{server.url}/file", target=tmp_path / "file"):
        download_file(url, target, size=len(BODY), sha256=sha256(BODY), pause=0)
        return target.read_bytes()

    return download


def start_at(offset):
    return f"bytes={offset}-"


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        ([], [None]),
        # At most one chunk of the bytes sent is lost.
        ([{"send": 3 * CHUNK}, {"send": 2 * CHUNK + 7}], [None, start_at(3 * CHUNK), start_at(5 * CHUNK)]),
        ([{"send": 2 * CHUNK + 100, "length": False}], [None, start_at(2 * CHUNK + 100)]),
        ([{"send": 3 * CHUNK}, {"ranges": False}], [None, start_at(3 * CHUNK)]),
        ([{"status": 503}, {"status": 429}, {"send": 0}], [None] * 4),
        ([{"send": 3 * CHUNK}, {"status": 416}], [None, start_at(3 * CHUNK), None]),
        ([{"send": 3 * CHUNK, "hang": True}, {"send": 0, "hang": True}], [None, *[start_at(3 * CHUNK)] * 2]),
        ([{"body_is": BODY + b"more"}], [None]),
        ([{"status": 302, "location": "/file"}], [None, None]),
    ],
    ids=["whole", "broken", "no length", "no ranges", "busy", "range refused", "silent", "too long", "redirected"],
)
def test_download_file_after_faults_is_complete(server, download, tmp_path, monkeypatch, faults, ranges):
    monkeypatch.setattr("training.data.http_download.TIMEOUT", (1, 0.3))
    server.faults = [dict(fault) for fault in faults]
    assert download() == BODY
    assert server.ranges() == ranges
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("faults", "requests", "kept", "message"),
    [
        ([{"status": 403}], 1, 0, "the server responded 403"),
        (
            [{"status": 500}] * 99,
            ATTEMPTS,
            0,
            rf"failed {ATTEMPTS} times, at last: .*500.* 0 of 655,483 bytes are kept",
        ),
        (
            [{"send": CHUNK}] + [{"status": 500}] * 99,
            1 + ATTEMPTS,
            CHUNK,
            "655,483 bytes are kept; run the same command",
        ),
        ([{"send": CHUNK, "ranges": False}] * 99, 1 + ATTEMPTS, CHUNK, "failed 6 times"),  # no progress after the first
        ([{"body_is": OTHER}], 1, 0, f"has the SHA-256 {sha256(OTHER)}, not {sha256(BODY)}"),
        ([{"send": CHUNK, "body_is": bytes(len(BODY))}], 2, 0, "has the SHA-256"),  # the file changed in between
        ([{"status": 302, "location": "file:///etc/passwd"}], 1, 0, "No connection adapters"),
        ([{"status": 302, "location": "/file"}] * 99, 31, 0, "redirects"),
    ],
    ids=["refused", "down", "down later", "always new", "damaged", "changed", "other protocol", "redirect loop"],
)
def test_download_file_failure_is_named_and_progress_kept(server, download, tmp_path, faults, requests, kept, message):
    server.faults = list(faults)
    with pytest.raises(DownloadError, match=message):
        download()
    assert len(server.requests) == requests
    partial = tmp_path / "file.partial"
    assert (partial.stat().st_size if partial.exists() else 0) == kept
    assert not (tmp_path / "file").exists()
    server.faults = []
    assert download() == BODY


def test_download_file_server_not_running_is_named(download):
    with pytest.raises(DownloadError, match="Connection refused"):
        download(url="http://127.0.0.1:9/file")


@pytest.mark.parametrize(("content", "requests"), [(BODY, 0), (OTHER, 1), (BODY + b"more", 1)])
def test_download_file_existing_file_is_verified(server, download, tmp_path, content, requests):
    (tmp_path / "file").write_bytes(content)
    assert download() == BODY
    assert len(server.requests) == requests


def test_download_file_pause_doubles_until_there_is_progress(server, tmp_path, monkeypatch):
    delays = []
    monkeypatch.setattr("training.data.http_download.time.sleep", delays.append)
    server.faults = [{"status": 503}, {"status": 503}, {"send": CHUNK}, {"status": 503}]
    download_file(f"{server.url}/file", tmp_path / "file", size=len(BODY), sha256=sha256(BODY))
    assert delays == [2, 4, 1, 2]

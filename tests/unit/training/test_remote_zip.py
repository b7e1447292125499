"""Files of a zip from a local server with faults: only their bytes are requested, and damage is refused."""

import random
import zipfile

import pytest

from tests.unit.training.file_server import FileServer, pack
from training.data import remote_zip
from training.data.remote_zip import ATTEMPTS, DownloadError, RemoteZip

FILES = {f"v/{i}.jpg": random.Random(i).randbytes(10_000) for i in range(30)}
FILES |= {"v/text.json": b"word " * 2000}
ARCHIVE = pack(FILES)
SIZE = len(ARCHIVE)
URL = "/v.zip"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = FileServer()
    server.files[URL] = ARCHIVE
    yield server
    server.close()


def open_zip(server, size=SIZE):
    return RemoteZip(f"{server.url}{URL}", size, pause=0)


def extract(archive, directory, names=FILES):
    archive.extract({name: directory / name for name in names})
    return {name: (directory / name).read_bytes() for name in names}


def test_extract_all_files_gives_their_content_in_few_requests(server, tmp_path):
    archive = open_zip(server)
    server.requests.clear()
    assert extract(archive, tmp_path) == FILES
    assert len(server.requests) == 1  # 310 KB are one range of at most 8 MB
    assert not list(tmp_path.rglob("*.partial"))


def test_extract_ranges_have_at_most_the_limit(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_zip, "MAX_RANGE", 45_000)  # four files of 10 KB
    archive = open_zip(server)
    server.requests.clear()
    assert extract(archive, tmp_path) == FILES
    assert len(server.requests) == 8  # 31 files: seven times four and three


def test_extract_two_files_requests_only_their_bytes(server, tmp_path):
    archive = open_zip(server)
    server.requests.clear()
    names = ["v/3.jpg", "v/20.jpg"]
    assert extract(archive, tmp_path, names) == {name: FILES[name] for name in names}
    # Random bytes are stored as they are, in blocks with five bytes more; a header has 30 bytes and the name.
    assert server.bytes_requested(URL) == sum(10_005 + 30 + len(name) for name in names)


def test_read_compressed_file_is_unpacked(server):
    assert open_zip(server).read("v/text.json") == b"word " * 2000


@pytest.mark.parametrize(
    "faults",
    [[{"send": 100}], [{"status": 503}, {"status": 429}], [{"send": 0, "hang": True}], [{"send": 5}] * (ATTEMPTS - 1)],
    ids=["closed early", "busy", "silent", "often"],
)
def test_extract_after_faults_is_complete(server, tmp_path, monkeypatch, faults):
    monkeypatch.setattr(remote_zip, "TIMEOUT", (1, 0.3))
    archive = open_zip(server)
    server.faults = list(faults)
    assert extract(archive, tmp_path) == FILES


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ([{"status": 403}], "the server responded 403"),
        ([{"status": 500}] * ATTEMPTS, rf"failed {ATTEMPTS} times, at last: .*500.* Run the same command again"),
        ([{"ranges": False}], "the server, or a proxy, does not support byte ranges"),
        ([{"body_is": ARCHIVE + b"more"}], f"has {SIZE + 4} bytes, not {SIZE}: it was replaced"),
        ([{"body_is": ARCHIVE.replace(FILES["v/3.jpg"], bytes(10_000))}], "v/3.jpg in .* is damaged"),
        ([{"status": 302, "location": "file:///etc/passwd"}], "No connection adapters"),
        ([{"status": 302, "location": URL}] * 99, "redirects"),
    ],
    ids=["refused", "down", "no ranges", "replaced", "damaged", "other protocol", "redirect loop"],
)
def test_extract_failure_is_named_and_the_next_call_succeeds(server, tmp_path, faults, message):
    archive = open_zip(server)
    server.faults = list(faults)
    with pytest.raises(DownloadError, match=message):
        extract(archive, tmp_path)
    server.faults = []
    assert extract(archive, tmp_path) == FILES


def test_extract_bomb_is_refused_before_anything_is_written(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_zip, "MAX_FILE", 9_999)
    with pytest.raises(DownloadError, match=r"v/0.jpg in .* would unpack to 10,000 bytes"):
        extract(open_zip(server), tmp_path)
    assert not list(tmp_path.iterdir())


def test_extract_without_space_says_how_much_is_missing(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 309_999}))
    with pytest.raises(DownloadError, match=r"needs 310,000 bytes; its disk has 309,999 bytes left"):
        extract(open_zip(server), tmp_path)


def test_read_file_with_a_false_size_is_damaged(server):
    sizes = [size.to_bytes(4, "little") for size in (3_000_000, 1000)]
    server.files[URL] = body = pack({"a.jpg": bytes(3_000_000)}).replace(*sizes)
    with pytest.raises(DownloadError, match=r"a.jpg in .* is damaged"):
        open_zip(server, len(body)).read("a.jpg")


def test_read_missing_file_is_named(server):
    with pytest.raises(DownloadError, match=r"holds no w/a.jpg"):
        open_zip(server).read("w/a.jpg")


def test_remote_zip_of_another_format_is_named(server):
    server.files[URL] = b"<html>" * 100
    with pytest.raises(DownloadError, match="is not a zip"):
        open_zip(server, 600)


def test_remote_zip_server_not_running_is_named():
    with pytest.raises(DownloadError, match="Connection refused"):
        RemoteZip("http://127.0.0.1:9/v.zip", 100, pause=0)


def test_remote_zip_pause_doubles(server, monkeypatch):
    delays = []
    archive = RemoteZip(f"{server.url}{URL}", len(ARCHIVE), pause=1)
    monkeypatch.setattr(archive._stopped, "wait", delays.append)
    server.faults = [{"status": 503}] * 3
    archive.read("v/0.jpg")
    assert delays == [1, 2, 4]


def test_extract_stored_files_of_a_large_zip(server, tmp_path):
    """Offsets beyond 4 GB are in the zip64 fields, which `zipfile` writes for `force_zip64`."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("v/a.jpg", "w", force_zip64=True) as file:
        file.write(b"content")
    server.files[URL] = path.read_bytes()
    assert open_zip(server, path.stat().st_size).read("v/a.jpg") == b"content"


def test_remote_zip_without_network_ends_at_once(monkeypatch):
    """No name below `.invalid` exists (RFC 2606)."""
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(DownloadError, match=r"^host\.invalid is not found: connect this machine to the internet\.$"):
        RemoteZip("https://host.invalid/v.zip", SIZE, pause=100)


def test_remote_zip_retries_are_reported(server, capsys):
    server.faults = [{"status": 503}]
    open_zip(server)
    assert "retrying in 0 s" in capsys.readouterr().err

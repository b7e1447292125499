"""COCO's download against a server of one's own that breaks off, lies and changes its mind, and against kills."""

import contextlib
import errno
import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import zipfile
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eval.coco import read_split
from tests.helpers.paths import ROOT
from tests.helpers.polling import eventually
from training.data.download_coco import CATALOGUE, Archive, main
from training.data.http_download import CHUNK, FAILURES, PROGRESS, DownloadError, fetch
from training.data.karpathy import convert_karpathy, write_karpathy_splits
from training.data.unpack import unpack

BODY = random.Random(0).randbytes(20 * CHUNK + 123)


class Origin:
    """A server on loopback: `files` by path, a log of what was asked, and what goes wrong, one answer after the other.

    A fault is a function of a handler and the body; where none is left, answers are as they should be.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.faults: list = []
        self.let_go = threading.Event()  # ends answers that keep silent

        class Handler(BaseHTTPRequestHandler):
            origin = self

            def do_GET(self):
                self.origin.asked.append((self.path, self.headers["Range"]))
                fault = self.origin.faults.pop(0) if self.origin.faults else answer
                with contextlib.suppress(ConnectionError):
                    fault(self, self.origin.files.get(self.path))

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def ranges(self, path="/file"):
        return [asked for name, asked in self.asked if name == path]


def answer(handler, body, *, status=None, ranges=True, length=True, more=0, send=None, shift=0, total=0, extra=()):
    """An answer to a GET, right unless told otherwise.

    Args:
        handler: the request's.
        body: the whole file.
        status: answer this and nothing else.
        ranges: heed `Range`, unless `If-Range` names another version.
        length: say how long the body is …
        more: … with so many bytes too many.
        send: break off after so many bytes.
        shift: go on so many bytes beyond the one that was asked for.
        total: what `Content-Range` gives for the file's size, if not that.
        extra: headers.
    """
    if body is None or status:
        handler.send_response(status or 404)
        for name, value in extra:
            handler.send_header(name, value)
        handler.end_headers()
        return
    tag = f'"{digest(body)[:16]}"'
    wanted = handler.headers["Range"]
    if wanted and ranges and handler.headers["If-Range"] in (None, tag):
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) + shift
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{total or len(body)}")
        part = body[first:]
    else:
        handler.send_response(200)
        part = body
    handler.send_header("ETag", tag)
    if length:
        handler.send_header("Content-Length", str(len(part) + more))
    handler.end_headers()
    handler.wfile.write(part[:send])


def fault(**changes):
    return lambda handler, body: answer(handler, body, **changes)


def silence(send):
    """Sends so many bytes, or not even a status, then nothing for as long as the test runs."""

    def fault(handler, body):
        if send:
            answer(handler, body, send=send)
        handler.origin.let_go.wait(30)

    return fault


@pytest.fixture
def origin(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    origin = Origin()
    yield origin
    origin.let_go.set()
    origin.server.shutdown()
    origin.server.server_close()


@pytest.fixture
def bring(origin, tmp_path):
    """Fetches /file into tmp_path/file."""
    origin.files["/file"] = BODY

    def bring(expected=BODY, url=f"{origin.url}/file", target=tmp_path / "file"):
        fetch(url, target, size=len(expected), sha256=digest(expected), pause=0)
        return target.read_bytes()

    return bring


def digest(body):
    return hashlib.sha256(body).hexdigest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file_is_asked_for_once(origin, bring, tmp_path):
    assert bring() == BODY
    assert bring() == BODY
    assert origin.ranges() == [None]
    assert names(tmp_path) == ["file", "file.verified"]


def test_a_connection_that_breaks_is_taken_up_where_it_broke(origin, bring):
    origin.faults = [fault(send=3 * CHUNK), fault(send=5 * CHUNK + 7), fault(send=0), fault(send=CHUNK)]
    assert bring() == BODY
    first, *rest = origin.ranges()
    assert first is None
    # At most a chunk of what was sent is lost: 5 chunks and 7 bytes count as 5.
    assert rest == [f"bytes={chunks * CHUNK}-" for chunks in (3, 8, 8, 9)]


def test_a_break_costs_at_most_a_chunk_without_a_declared_length(origin, bring):
    origin.faults = [fault(send=2 * CHUNK + 100, length=False)]  # an end that looks like the regular one
    assert bring() == BODY
    assert origin.ranges() == [None, f"bytes={2 * CHUNK + 100}-"]


@pytest.mark.parametrize("more", [-CHUNK, CHUNK])
def test_a_length_that_is_not_the_files(origin, bring, tmp_path, more):
    origin.faults = [fault(send=2 * CHUNK), fault(more=more, ranges=False)]  # once: asked again
    assert bring() == BODY
    assert origin.ranges() == [None, f"bytes={2 * CHUNK}-", f"bytes={2 * CHUNK}-"]
    (tmp_path / "file").unlink()
    origin.faults = [fault(more=more)] * FAILURES  # always: given up before anything is written
    with pytest.raises(DownloadError, match=rf"server has a file of {len(BODY) + more} bytes there, not {len(BODY)}"):
        bring()
    assert "file" not in names(tmp_path)


def test_a_partial_answer_that_declares_too_much_or_too_little(origin, bring):
    origin.faults = [fault(send=CHUNK), fault(more=5 * CHUNK), fault(send=CHUNK), fault(more=-3 * CHUNK)]
    assert bring() == BODY


def test_a_server_that_never_ends_fills_no_disk(origin, bring, tmp_path):
    written = []

    def endless(handler, body):
        answer(handler, None, status=200)
        for _ in range(1000):  # 64 MB: so much only that a failing test fills no disk either
            handler.wfile.write(bytes(CHUNK))
            written.append(sum(path.stat().st_size for path in tmp_path.glob("file*")))

    origin.faults = [endless, endless]
    with pytest.raises(DownloadError, match="SHA-256"):
        bring()
    assert max(written) <= len(BODY)
    assert origin.ranges() == [None, None]


def test_a_wrong_file_is_fetched_once_more_then_both_digests_are_named(origin, bring, tmp_path):
    wrong = BODY[:-1] + bytes([BODY[-1] ^ 1])
    origin.faults = [lambda handler, _: answer(handler, wrong)]
    assert bring() == BODY  # damaged on its way, once
    assert origin.ranges() == [None, None]
    (tmp_path / "file").unlink()
    origin.files["/file"], origin.asked[:] = wrong, []
    with pytest.raises(DownloadError) as error:
        bring()
    assert digest(wrong) in str(error.value)
    assert digest(BODY) in str(error.value)
    assert origin.ranges() == [None, None]
    assert not set(names(tmp_path)) & {"file", "file.partial"}


def test_a_server_that_ignores_ranges_sends_it_all_again(origin, bring):
    origin.faults = [fault(send=3 * CHUNK), fault(ranges=False)]
    assert bring() == BODY
    assert origin.ranges() == [None, f"bytes={3 * CHUNK}-"]


@pytest.mark.parametrize("refusal", [{"status": 416}, {"shift": 1}, {"shift": -CHUNK}, {"total": len(BODY) + 1}])
def test_a_server_that_does_not_go_on_there_is_asked_for_all(origin, bring, refusal):
    origin.faults = [fault(send=3 * CHUNK), fault(**refusal)]
    assert bring() == BODY
    assert origin.ranges() == [None, f"bytes={3 * CHUNK}-", None]


def test_a_file_that_changes_between_two_attempts_is_never_mixed(origin, bring):
    other = random.Random(1).randbytes(len(BODY))
    origin.faults = [lambda handler, _: answer(handler, other, send=3 * CHUNK)]
    assert bring() == BODY
    assert origin.ranges() == [None, f"bytes={3 * CHUNK}-"]  # answered with 200, for If-Range named the other's ETag


def test_a_changed_file_is_found_without_etags_too(origin, bring):
    def untagged(handler, _):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(bytes(3 * CHUNK))

    origin.faults = [untagged]
    assert bring() == BODY
    assert origin.ranges() == [None, f"bytes={3 * CHUNK}-", None]  # the mixture's digest was wrong


def test_back_off_doubles(origin, tmp_path, monkeypatch):
    delays = []
    monkeypatch.setattr("training.data.http_download.time.sleep", delays.append)
    origin.files["/file"] = BODY
    origin.faults = [fault(status=503), fault(status=503)]
    fetch(f"{origin.url}/file", tmp_path / "file", size=len(BODY), sha256=digest(BODY))
    assert delays == [1, 2]
    origin.faults = [fault(status=500)] * 100
    with pytest.raises(DownloadError, match=r"tried 6 times without progress.*answered 500.* 0 of 1,310,843 bytes are"):
        fetch(f"{origin.url}/file", tmp_path / "other", size=len(BODY), sha256=digest(BODY))
    assert delays == [1, 2, 1, 2, 4, 8, 16]


def test_failures_are_forgotten_after_progress_and_only_then(origin, bring, tmp_path):
    body = origin.files["/file"] = random.Random(2).randbytes((FAILURES + 2) * PROGRESS)
    origin.faults = [fault(send=PROGRESS)] * (FAILURES + 1)
    assert bring(body) == body
    origin.asked.clear()
    origin.faults = [fault(send=PROGRESS, ranges=False)] * 100  # each brings as much, but always the same
    with pytest.raises(DownloadError, match=r"without progress, the last time: Connection broken"):
        bring(body, target=tmp_path / "other")
    assert len(origin.asked) == FAILURES + 1


def test_silence_counts_as_a_failure(origin, bring, monkeypatch):
    monkeypatch.setattr("training.data.http_download.TIMEOUT", (1, 0.2))
    origin.faults = [silence(3 * CHUNK), silence(0)]
    assert bring() == BODY
    assert origin.ranges() == [None, f"bytes={3 * CHUNK}-", f"bytes={3 * CHUNK}-"]


def test_nobody_listens(bring):
    with pytest.raises(DownloadError, match="Connection refused"):
        bring(url="http://127.0.0.1:9/file")


def test_a_refusal_is_not_tried_again(origin, bring):
    origin.faults = [fault(status=403)]
    with pytest.raises(DownloadError, match="the server answered 403"):
        bring()
    assert len(origin.asked) == 1


def test_redirects_are_followed_to_http_alone(origin, bring, tmp_path):
    origin.files["/moved"] = BODY
    origin.faults = [fault(status=302, extra=[("Location", "/moved")])]
    assert bring() == BODY
    assert [path for path, _ in origin.asked] == ["/file", "/moved"]
    (tmp_path / "file").unlink()
    for address in ("file:///etc/passwd", "ftp://127.0.0.1/file"):
        origin.faults = [fault(status=302, extra=[("Location", address)])]
        with pytest.raises(DownloadError, match=f"No connection adapters.*{address}"):
            bring()
    origin.faults = [fault(status=302, extra=[("Location", "/file")])] * 100
    with pytest.raises(DownloadError, match="redirects"):
        bring()


def test_a_file_from_elsewhere_is_checked(origin, bring, tmp_path):
    (tmp_path / "file").write_bytes(BODY)
    bring()
    assert not origin.asked
    (tmp_path / "file").write_bytes(bytes(len(BODY)))  # the note is of another file now
    assert bring() == BODY
    assert origin.ranges() == [None]
    (tmp_path / "file").write_bytes(BODY + b"more")
    assert bring() == BODY


# From here on a small COCO of several archives, through the command.

KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filepath": folder, "filename": f"COCO_{folder}_{index:012d}.jpg", "cocoid": index, "imgid": order,
            "split": split, "sentids": [10 * index, 10 * index + 1],
            "sentences": [
                {"raw": f"Picture {index}, seen.", "tokens": ["picture", str(index), "seen"], "imgid": order,
                 "sentid": 10 * index},
                {"raw": f"A café, no. {index} ", "tokens": ["a"], "imgid": order, "sentid": 10 * index + 1},
            ],
        }
        for order, (index, folder, split) in enumerate(
            [(9, "train2014", "train"), (42, "val2014", "restval"), (73, "val2014", "val"), (74, "val2014", "test"),
             (25, "train2014", "train")]
        )
    ],
}  # fmt: skip


def pack(files, compression=zipfile.ZIP_STORED):
    """A zip; a name may be a ZipInfo."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return data.getvalue()


def captions(name):
    content = {"images": [{"id": 1, "file_name": f"{name}.jpg"}], "annotations": [{"image_id": 1, "caption": name}]}
    return json.dumps(content)


def pictures(folder, stems, count=1, size=100):
    files = {f"{folder}/": b""} | {f"{folder}/{stem}.jpg": random.Random(stem).randbytes(size) for stem in stems}
    return files | {f"{folder}/{i}.jpg": random.Random(i).randbytes(size) for i in range(count - len(stems))}


def offer(origin, name, files, wanted, kind):
    """Has the server offer a zip; returns its entry in a catalogue."""
    body = pack(files, zipfile.ZIP_DEFLATED)
    origin.files[f"/{name}"] = body
    return Archive(f"{origin.url}/{name}", len(body), digest(body), wanted, kind)


@pytest.fixture
def catalogue(origin):
    both = [image["filename"].removesuffix(".jpg") for image in KARPATHY["images"]]
    annotations = {f"annotations/captions_{split}2017.json": captions(f"{split}-picture") for split in ("train", "val")}
    annotations["annotations/instances_val2017.json"] = "unwanted"
    train, val = (
        offer(
            origin,
            f"{split}2014.zip",
            pictures(f"{split}2014", [stem for stem in both if split in stem]),
            f"{split}2014/*.jpg",
            "pictures",
        )
        for split in ("train", "val")
    )
    datasets = {"dataset_coco.json": json.dumps(KARPATHY), "dataset_flickr8k.json": "{}"}
    return {
        "2017": (
            offer(origin, "annotations2017.zip", annotations, "annotations/captions_*2017.json", "captions"),
            offer(origin, "train2017.zip", pictures("train2017", ["train-picture"], 40), "train2017/*.jpg", "pictures"),
            offer(origin, "val2017.zip", pictures("val2017", ["val-picture"], 3), "val2017/*.jpg", "pictures"),
        ),
        "karpathy": (offer(origin, "karpathy.zip", datasets, "dataset_coco.json", "karpathy"), train, val),
    }


@pytest.fixture
def run(catalogue, tmp_path, capsys):
    """Runs the command into tmp_path/coco; returns what it printed, or the sentence that it ended with."""

    def run(*options, offered=catalogue):
        sentence = None
        try:
            main([str(tmp_path / "coco"), *options], offered, pause=0)
        except SystemExit as error:
            sentence = error.code
        if sentence is None:
            return capsys.readouterr().out
        assert isinstance(sentence, str)  # which makes the status 1
        assert "\n" not in sentence
        return sentence

    return run


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_coco_in_cocos_layout(origin, run, tmp_path):
    coco = tmp_path / "coco"
    output = run()
    for split, count in (("train", 40), ("val", 3)):
        assert len(names(coco / f"{split}2017")) == count
        [image] = read_split(coco, f"{split}2017")
        assert image.path.read_bytes() == random.Random(f"{split}-picture").randbytes(100)
    assert "train2017.zip: 40 files are in" in output
    assert names(coco) == ["annotations", "archives", "train2014", "train2017", "val2014", "val2017"]
    assert {path for path in names(coco / "archives") if path.endswith(".zip")} == set()
    assert "instances_val2017.json" not in names(coco / "annotations")
    assert sorted(path for path, _ in origin.asked) == sorted(origin.files)

    before = tree(coco)
    origin.asked.clear()
    run()
    assert not origin.asked  # all of it is there
    assert tree(coco) == before

    (coco / "val2017" / "0.jpg").write_bytes(b"cut")
    (coco / "annotations" / "captions_karpathy_val.json").unlink()
    run()
    assert sorted(path for path, _ in origin.asked) == ["/karpathy.zip", "/val2017.zip"]
    assert tree(coco).keys() == before.keys()
    assert tree(coco)["val2017/0.jpg"] == before["val2017/0.jpg"]


def test_a_file_that_the_catalogue_changed_is_fetched_again(origin, catalogue, run, tmp_path):
    run("--sets", "2017")
    origin.asked.clear()
    newer = offer(origin, "val2017.zip", pictures("val2017", ["val-picture"], 4), "val2017/*.jpg", "pictures")
    run("--sets", "2017", offered=catalogue | {"2017": (*catalogue["2017"][:2], newer)})
    assert origin.asked == [("/val2017.zip", None)]
    assert len(names(tmp_path / "coco" / "val2017")) == 4


def test_captions_alone_and_pictures_later(origin, run):
    run("--sets", "2017", "karpathy", "--annotations-only")
    assert sorted(path for path, _ in origin.asked) == ["/annotations2017.zip", "/karpathy.zip"]
    origin.asked.clear()
    run("--sets", "2017")
    assert sorted(path for path, _ in origin.asked) == ["/train2017.zip", "/val2017.zip"]


def test_archives_are_kept_where_asked_for(origin, run, tmp_path):
    archives = tmp_path / "coco" / "archives"
    run("--sets", "2017", "--keep-archives")
    assert {name for name in names(archives) if name.endswith(".zip")} == {
        "annotations2017.zip",
        "train2017.zip",
        "val2017.zip",
    }
    (tmp_path / "coco" / "val2017" / "val-picture.jpg").unlink()
    origin.asked.clear()
    run("--sets", "2017")  # unpacked again from what was kept, and kept no longer
    assert not origin.asked
    assert len(names(tmp_path / "coco" / "val2017")) == 3
    assert not [name for name in names(archives) if name.endswith(".zip")]


def test_karpathys_splits_are_read(run, tmp_path):
    coco = tmp_path / "coco"
    run("--sets", "karpathy")
    read = {split: read_split(coco, f"karpathy_{split}") for split in ("train", "val", "test")}
    assert {split: [image.id for image in images] for split, images in read.items()} == {
        "train": [9, 42, 25],  # his train and restval
        "val": [73],
        "test": [74],
    }
    assert read["train"][1].path == coco / "val2014" / "COCO_val2014_000000000042.jpg"
    assert read["train"][1].captions == ("Picture 42, seen.", "A café, no. 42 ")  # as written, not his tokens
    content = json.loads((coco / "annotations" / "captions_karpathy_test.json").read_text(encoding="utf-8"))
    assert content == {
        "images": [{"id": 74, "file_name": "val2014/COCO_val2014_000000000074.jpg"}],
        "annotations": [
            {"id": 740, "image_id": 74, "caption": "Picture 74, seen."},
            {"id": 741, "image_id": 74, "caption": "A café, no. 74 "},
        ],
    }
    assert "dataset_coco.json" not in names(coco / "archives")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"split": "dev"}, "KeyError.'dev'"),
        ({"cocoid": "9"}, "cocoid is no int"),
        ({"sentences": [{"raw": None, "sentid": 1}]}, "raw is no str"),
        ({"cocoid": 42}, "picture 42 comes twice"),
    ],
)
def test_what_is_not_karpathys_format_is_refused(tmp_path, change, reason):
    images = [KARPATHY["images"][0] | change, *KARPATHY["images"][1:]]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    with pytest.raises(ValueError, match=rf"dataset_coco\.json is not in the format of Karpathy's splits: .*{reason}"):
        write_karpathy_splits(tmp_path / "dataset_coco.json", tmp_path / "annotations")
    assert names(tmp_path) == ["dataset_coco.json"]


def test_karpathys_splits_count_each_picture_once():
    splits = convert_karpathy(KARPATHY)
    assert {name: (len(split["images"]), len(split["annotations"])) for name, split in splits.items()} == {
        "train": (3, 6),
        "val": (1, 2),
        "test": (1, 2),
    }


def linked(name, target="/etc"):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return {info: target}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"v/../../out.jpg": b"x"}, "'v/../../out.jpg', which leads out of the folder"),
        ({"../out.jpg": b"x"}, "which leads out"),
        ({"/out.jpg": b"x"}, "which leads out"),
        ({"v/..\\..\\out.jpg": b"x"}, "which leads out"),
        (linked("v/out.jpg"), "'v/out.jpg', which is a link"),
        ({"w/b.jpg": b"x"}, None),
        ({"v/b.jpg": bytes(2_000_000)}, r"would unpack to 2,000,00\d bytes, and 1,000,000 are the most"),
        ({f"v/{i}.jpg": bytes(20_000) for i in range(60)}, r"would unpack to 1,200,00\d bytes"),
    ],
)
def test_zips_that_do_harm_are_refused_before_anything_is_written(tmp_path, files, reason):
    (tmp_path / "a.zip").write_bytes(pack({"v/a.jpg": b"a"} | files, zipfile.ZIP_DEFLATED))
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    if reason is None:  # harmless: not wanted, so not written
        assert unpack(tmp_path / "a.zip", "v/*.jpg", folder, limit=1_000_000) == {"v/a.jpg": 1}
        assert tree(folder) == {"v/a.jpg": b"a"}
        return
    with pytest.raises(ValueError, match=reason):
        unpack(tmp_path / "a.zip", "v/*.jpg", folder, limit=1_000_000)
    assert names(tmp_path) == ["a.zip", "outer"]
    assert not tree(tmp_path / "outer")


def test_a_zip_that_declares_less_than_it_holds(tmp_path):
    """The bomb's other half: sizes that are checked are of no use where they are not kept to."""
    packed = pack({"v/a.jpg": bytes(3_000_000)}, zipfile.ZIP_DEFLATED)
    for declared, reason in ((1000, "Bad CRC-32"), (4_000_000, "'v/a.jpg' is shorter than declared")):
        sizes = [size.to_bytes(4, "little") for size in (3_000_000, declared)]
        (tmp_path / "a.zip").write_bytes(packed.replace(*sizes))
        with pytest.raises(ValueError, match=rf"a\.zip can't be unpacked: .*{reason}"):
            unpack(tmp_path / "a.zip", "v/*.jpg", tmp_path, limit=4_000_000)
    assert names(tmp_path) == ["a.zip", "v"]
    assert not names(tmp_path / "v")


def test_no_zip_and_nothing_wanted(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"a\.zip can't be unpacked: File is not a zip file"):
        unpack(tmp_path / "a.zip", "v/*.jpg", tmp_path, limit=10)
    (tmp_path / "a.zip").write_bytes(pack({"w/a.jpg": b""}))
    with pytest.raises(ValueError, match=r"holds no v/\*\.jpg"):
        unpack(tmp_path / "a.zip", "v/*.jpg", tmp_path, limit=10)


def test_a_bomb_is_refused_by_the_command(origin, run, tmp_path):
    bomb = offer(origin, "val2017.zip", {"val2017/a.jpg": bytes(1_000_000)}, "val2017/*.jpg", "pictures")
    assert "would unpack to 1,000,000 bytes" in run("--sets", "2017", offered={"2017": [bomb], "karpathy": []})
    assert "val2017" not in names(tmp_path / "coco")


@pytest.mark.parametrize("step", ["fetching", "unpacking"])
def test_a_full_disk_keeps_what_was_done(origin, catalogue, run, tmp_path, monkeypatch, step):
    body = random.Random(3).randbytes(4 * CHUNK)
    files = {f"val2017/{i}.jpg": body[i * CHUNK : (i + 1) * CHUNK] for i in range(4)}
    archive = offer(origin, "val2017.zip", files, "val2017/*.jpg", "pictures")
    written = 0

    class Narrow(io.FileIO):
        """A file on a disk with room for two and a half pictures."""

        def write(self, data):
            nonlocal written
            if written + len(data) > 2.5 * CHUNK:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += len(data)
            return super().write(data)

    real = Path.open
    narrow = {"fetching": "val2017.zip.partial", "unpacking": ".unpacking"}[step]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *a, **k: (Narrow if path.name == narrow else real)(path, *a, **k))
        sentence = run("--sets", "2017", offered=catalogue | {"2017": [archive]})
    assert sentence.startswith("The disk of") and "goes on where it stopped" in sentence  # noqa: PT018
    if step == "unpacking":
        assert names(tmp_path / "coco" / "val2017") == ["0.jpg", "1.jpg"]
    run("--sets", "2017", offered=catalogue | {"2017": [archive]})
    assert origin.ranges("/val2017.zip") == ([None, f"bytes={2 * CHUNK}-"] if step == "fetching" else [None])
    assert {name: (tmp_path / "coco" / name).read_bytes() for name in files} == files


def test_one_at_a_time(run, tmp_path, catalogue, origin):
    origin.faults = [silence(10)]
    other = start(tmp_path / "coco", catalogue)
    try:
        eventually(lambda: origin.asked)
        assert run() == f"Another process is downloading into {tmp_path / 'coco'}."
    finally:
        other.kill()
        other.wait()
    assert "files are in" in run("--sets", "2017")  # a kill leaves no lock


def test_ctrl_c_is_one_sentence(origin, catalogue, tmp_path):
    origin.faults = [silence(10)]
    process = start(tmp_path / "coco", catalogue)
    eventually(lambda: origin.asked)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.strip().endswith(f"Stopped. The same command goes on where it stopped, in {tmp_path / 'coco'}.")
    assert "Traceback" not in errors


def test_a_folder_that_cant_be_written(run, tmp_path):
    (tmp_path / "coco").write_text("a file")
    assert re.search(r"coco.* can't be written: (File exists|Not a directory)", run())


SCRIPT = """
import json, sys, time
from training.data import download, unpack
if len(sys.argv) > 3:  # hang before the picture of this number has its own name
    replace, left = unpack.os.replace, int(sys.argv[3])
    def hang(partial, target):
        global left
        left -= str(target).endswith(".jpg")
        time.sleep(0 if left else 60)
        replace(partial, target)
    unpack.os.replace = hang
offered = {name: [download.Archive(**entry) for entry in entries] for name, entries in json.loads(sys.argv[2]).items()}
download.main([sys.argv[1], "--sets", "2017"], offered, pause=0)
"""


def start(folder, catalogue, *more):
    """The command in a process of its own, to kill."""
    offered = json.dumps({name: [asdict(entry) for entry in entries] for name, entries in catalogue.items()})
    command = [sys.executable, "-c", SCRIPT, str(folder), offered, *map(str, more)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill(process):
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_download_goes_on(origin, catalogue, tmp_path, run):
    body = random.Random(4).randbytes(40 * CHUNK)
    archive = offer(origin, "large.zip", {"train2017/a.jpg": body}, "train2017/*.jpg", "pictures")
    offered = catalogue | {"2017": (*catalogue["2017"], archive)}
    partial = tmp_path / "coco" / "archives" / "large.zip.partial"
    small = [fault()] * 3
    for sent in (9 * CHUNK, 6 * CHUNK):
        origin.faults = [*small, silence(sent)]
        small = []  # they are there by the second time
        before = partial.stat().st_size if partial.exists() else 0
        process = start(tmp_path / "coco", offered)
        eventually(lambda least=before + sent: partial.exists() and partial.stat().st_size >= least)
        kill(process)
    run("--sets", "2017", offered=offered)
    assert origin.ranges("/large.zip") == [None, f"bytes={9 * CHUNK}-", f"bytes={15 * CHUNK}-"]
    assert (tmp_path / "coco" / "train2017" / "a.jpg").read_bytes() == body
    assert sorted(path for path, _ in origin.asked if path != "/large.zip") == [
        "/annotations2017.zip",
        "/train2017.zip",
        "/val2017.zip",
    ]  # each once, over three runs


def test_a_killed_extraction_goes_on(origin, catalogue, tmp_path, run):
    folder = tmp_path / "coco" / "train2017"
    offered = {"2017": catalogue["2017"][1:2], "karpathy": []}
    process = start(tmp_path / "coco", offered, 21)
    eventually(lambda: folder.exists() and len(names(folder)) == 21)
    kill(process)
    assert ".unpacking" in names(folder)  # the 21st, which has no name yet
    written = {path.name: path.stat().st_ino for path in folder.glob("*.jpg")}
    assert len(written) == 20
    assert origin.ranges("/train2017.zip") == [None]
    run("--sets", "2017", offered=offered)
    assert origin.ranges("/train2017.zip") == [None]  # the archive was there, and whole
    assert len(names(folder)) == 40
    assert all((folder / name).stat().st_ino == inode for name, inode in written.items())  # not written again
    expected = pictures("train2017", ["train-picture"], 40)
    assert all((tmp_path / "coco" / name).read_bytes() == content for name, content in expected.items() if content)


def test_the_catalogue():
    archives = {archive.name: archive for entries in CATALOGUE.values() for archive in entries}
    assert len({archive.sha256 for archive in archives.values()}) == len(archives) == 7
    for archive in archives.values():
        assert archive.url.startswith("https://")
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
    needed = [archive.name for archive in CATALOGUE["karpathy"]]
    assert needed == ["caption_datasets.zip", "train2014.zip", "val2014.zip"]

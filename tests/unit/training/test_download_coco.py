"""The download command with a small COCO from a local server: complete, resumable, one sentence on errors."""

import errno
import io
import json
import os
import random
import re
import signal
import zipfile
from pathlib import Path

import pytest

from eval.coco import read_split
from tests.helpers.polling import eventually
from tests.helpers.trainings import fork
from tests.unit.training.file_server import FileServer, pack, sha256
from tests.unit.training.test_karpathy import KARPATHY
from training.data.download_coco import CATALOG, Archive, main
from training.data.http_download import CHUNK


def captions(name):
    content = {"images": [{"id": 1, "file_name": f"{name}.jpg"}], "annotations": [{"image_id": 1, "caption": name}]}
    return json.dumps(content)


def image_files(directory, stems, count=0):
    names = [*stems, *range(count)]
    return {f"{directory}/": b""} | {f"{directory}/{name}.jpg": random.Random(name).randbytes(100) for name in names}


def offer(server, name, files, pattern, kind, compression=zipfile.ZIP_DEFLATED):
    """Serve a zip; return its entry in a catalog."""
    body = pack(files, compression)
    server.files[f"/{name}"] = body
    return Archive(f"{server.url}/{name}", len(body), sha256(body), pattern, kind)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = FileServer()
    yield server
    server.close()


@pytest.fixture
def catalog(server):
    stems = [image["filename"].removesuffix(".jpg") for image in KARPATHY["images"]]
    annotations = {f"annotations/captions_{split}2017.json": captions(f"{split}-image") for split in ("train", "val")}
    annotations["annotations/instances_val2017.json"] = "other"
    train, val = (
        offer(
            server,
            f"{split}2014.zip",
            image_files(f"{split}2014", [stem for stem in stems if split in stem]),
            f"{split}2014/*.jpg",
            "images",
        )
        for split in ("train", "val")
    )
    datasets = {"dataset_coco.json": json.dumps(KARPATHY), "dataset_flickr8k.json": "{}"}
    return {
        "2017": (
            offer(server, "annotations2017.zip", annotations, "annotations/captions_*2017.json", "captions"),
            offer(server, "train2017.zip", image_files("train2017", ["train-image"], 9), "train2017/*.jpg", "images"),
            offer(server, "val2017.zip", image_files("val2017", ["val-image"], 2), "val2017/*.jpg", "images"),
        ),
        "karpathy": (offer(server, "karpathy.zip", datasets, "dataset_coco.json", "karpathy"), train, val),
    }


@pytest.fixture
def run(catalog, tmp_path, capsys):
    """Run the command into tmp_path/coco; return its output, or the sentence that it ended with."""

    def run(*options, offered=catalog):
        sentence = None
        try:
            main([str(tmp_path / "coco"), *options], offered, pause=0)
        except SystemExit as error:
            sentence = error.code
        if sentence is None:
            return capsys.readouterr().out
        assert isinstance(sentence, str)  # so the status is 1
        assert "\n" not in sentence
        return sentence

    return run


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def tree(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def requested(server):
    return sorted(path for path, _ in server.requests)


def test_download_all_sets_gives_the_coco_layout_once(server, run, tmp_path):
    coco = tmp_path / "coco"
    output = run()
    assert "train2017.zip: 10 files are in" in output
    for split, count in (("train", 10), ("val", 3)):
        assert len(names(coco / f"{split}2017")) == count
        [image] = read_split(coco, f"{split}2017")
        assert image.path.read_bytes() == random.Random(f"{split}-image").randbytes(100)
    karpathy = {split: read_split(coco, f"karpathy_{split}") for split in ("train", "val", "test")}
    assert {split: len(images) for split, images in karpathy.items()} == {"train": 3, "val": 1, "test": 1}
    assert karpathy["train"][1].path == coco / "val2014" / "COCO_val2014_000000000042.jpg"
    assert names(coco) == ["annotations", "archives", "train2014", "train2017", "val2014", "val2017"]
    assert not [name for name in names(coco / "archives") if name.endswith((".zip", ".json"))]
    assert "instances_val2017.json" not in names(coco / "annotations")
    assert requested(server) == sorted(server.files)

    before = tree(coco)
    server.requests.clear()
    run()
    assert not server.requests
    assert tree(coco) == before


def test_download_again_fetches_only_archives_of_damaged_files(server, run, tmp_path):
    coco = tmp_path / "coco"
    run()
    before = tree(coco)
    (coco / "val2017" / "0.jpg").write_bytes(b"cut")
    (coco / "annotations" / "captions_karpathy_val.json").unlink()
    server.requests.clear()
    run()
    assert requested(server) == ["/karpathy.zip", "/val2017.zip"]
    assert tree(coco) == before


def test_download_archive_changed_in_the_catalog_is_fetched_again(server, catalog, run, tmp_path):
    run("--sets", "2017")
    server.requests.clear()
    newer = offer(server, "val2017.zip", image_files("val2017", ["val-image"], 4), "val2017/*.jpg", "images")
    run("--sets", "2017", offered=catalog | {"2017": (*catalog["2017"][:2], newer)})
    assert server.requests == [("/val2017.zip", None)]
    assert len(names(tmp_path / "coco" / "val2017")) == 5


def test_download_annotations_only_skips_images_until_later(server, run):
    run("--sets", "2017", "karpathy", "--annotations-only")
    assert requested(server) == ["/annotations2017.zip", "/karpathy.zip"]
    server.requests.clear()
    run("--sets", "2017")
    assert requested(server) == ["/train2017.zip", "/val2017.zip"]


def test_download_kept_archives_are_unpacked_again(server, run, tmp_path):
    archives = tmp_path / "coco" / "archives"
    run("--sets", "2017", "--keep-archives")
    zips = ["annotations2017.zip", "train2017.zip", "val2017.zip"]
    assert [name for name in names(archives) if name.endswith(".zip")] == zips
    (tmp_path / "coco" / "val2017" / "val-image.jpg").unlink()
    server.requests.clear()
    run("--sets", "2017")
    assert not server.requests
    assert len(names(tmp_path / "coco" / "val2017")) == 3
    assert not [name for name in names(archives) if name.endswith(".zip")]


def test_download_zip_bomb_is_refused(server, run, tmp_path):
    bomb = offer(server, "val2017.zip", {"val2017/a.jpg": bytes(1_000_000)}, "val2017/*.jpg", "images")
    assert "would unpack to 1,000,000 bytes" in run("--sets", "2017", offered={"2017": [bomb], "karpathy": []})
    assert "val2017" not in names(tmp_path / "coco")


def test_download_directory_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / "coco").write_text("a file")
    assert re.search(r"coco.* cannot be written: (File exists|Not a directory)", run())


@pytest.mark.parametrize("step", ["downloading", "unpacking"])
def test_download_full_disk_keeps_progress(server, catalog, run, tmp_path, monkeypatch, step):
    body = random.Random(3).randbytes(4 * CHUNK)
    files = {f"val2017/{i}.jpg": body[i * CHUNK : (i + 1) * CHUNK] for i in range(4)}
    archive = offer(server, "val2017.zip", files, "val2017/*.jpg", "images", zipfile.ZIP_STORED)
    offered = catalog | {"2017": [archive]}
    written = 0

    class FullDisk(io.FileIO):
        """A file on a disk with space for two and a half images."""

        def write(self, data):
            nonlocal written
            if written + len(data) > 2.5 * CHUNK:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += len(data)
            return super().write(data)

    def is_full(path):
        return str(path).endswith(".partial") if step == "downloading" else str(path).endswith(".jpg")

    def open_path(path, *args, **options):
        return (FullDisk if is_full(path) else original_path_open)(path, *args, **options)

    def open_file(path, *args, **options):
        return (FullDisk if is_full(path) else original_open)(path, *args, **options)

    original_path_open, original_open = Path.open, open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_path)
        patch.setattr("builtins.open", open_file)
        sentence = run("--sets", "2017", offered=offered)
    assert sentence.startswith("The disk of")
    assert sentence.endswith("Run the same command again to resume.")
    run("--sets", "2017", offered=offered)
    ranges = [None, f"bytes={2 * CHUNK}-"] if step == "downloading" else [None]
    assert server.ranges("/val2017.zip") == ranges
    assert {name: (tmp_path / "coco" / name).read_bytes() for name in files} == files


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_download_interrupted_resumes_and_excludes_a_second_process(server, catalog, run, tmp_path, number):
    body = random.Random(4).randbytes(20 * CHUNK)
    files = {"train2017/a.jpg": body}
    archive = offer(server, "large.zip", files, "train2017/*.jpg", "images", zipfile.ZIP_STORED)
    offered = catalog | {"2017": [archive]}
    partial = tmp_path / "coco" / "archives" / "large.zip.partial"
    server.faults = [{"send": 9 * CHUNK, "hang": True}]
    arguments = [str(tmp_path / "coco"), "--sets", "2017"]
    process = fork(lambda: main(arguments, offered, pause=0), tmp_path / "stderr")
    eventually(lambda: partial.exists() and partial.stat().st_size >= 8 * CHUNK)
    assert run("--sets", "2017", offered=offered) == f"Another process is downloading into {tmp_path / 'coco'}."
    os.kill(process.pid, number)
    process.join(60)
    if number == signal.SIGINT:
        assert process.exitcode == 1
        assert (tmp_path / "stderr").read_text().endswith("Stopped. Run the same command again to resume.\n")
    kept = partial.stat().st_size
    run("--sets", "2017", offered=offered)
    assert server.ranges("/large.zip") == [None, f"bytes={kept}-"]
    assert (tmp_path / "coco" / "train2017" / "a.jpg").read_bytes() == body


def test_catalog_has_https_urls_and_distinct_digests():
    archives = {archive.name: archive for entries in CATALOG.values() for archive in entries}
    assert len({archive.sha256 for archive in archives.values()}) == len(archives) == 7
    for archive in archives.values():
        assert archive.url.startswith("https://")
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
    assert [archive.name for archive in CATALOG["karpathy"]] == ["caption_datasets.zip", "train2014.zip", "val2014.zip"]

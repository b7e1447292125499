"""The download command with a small COCO from a local server: only the splits asked for, and resumable."""

import errno
import json
import os
import random
import re
import signal
from pathlib import Path

import pytest

from eval.data import read_split
from tests.helpers.polling import eventually
from tests.helpers.trainings import fork
from tests.unit.training.file_server import FileServer, pack
from tests.unit.training.test_karpathy import KARPATHY, VAL2017
from training.data.download_coco import CATALOG, Archive, main
from training.data.remote_zip import RemoteZip


def content(name):
    return random.Random(name).randbytes(100)


def image_files(directory, ids):
    """Files as COCO's archive of a directory has them, with one that no split names."""
    prefix = f"COCO_{directory}_" if directory.endswith("2014") else ""
    names = [f"{directory}/{prefix}{image_id:012d}.jpg" for image_id in (*ids, 99)]
    return {f"{directory}/": b""} | {name: content(name) for name in names}


def captions(prefix, ids):
    return {
        "images": [{"id": image_id, "file_name": f"{prefix}{image_id:012d}.jpg"} for image_id in ids],
        "annotations": [{"id": image_id, "image_id": image_id, "caption": "A cat."} for image_id in ids],
    }


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = FileServer()
    yield server
    server.close()


@pytest.fixture
def catalog(server):
    files = {
        "annotations2017": {
            "annotations/captions_train2017.json": json.dumps(captions("", [9, 25, 74])),
            "annotations/captions_val2017.json": json.dumps(VAL2017),
            "annotations/instances_val2017.json": "{}",
            "annotations/instances_train2017.json": "{}",
        },
        "annotations2014": {
            "annotations/captions_val2014.json": json.dumps(captions("COCO_val2014_", [42, 73, 74])),
            "annotations/instances_val2014.json": "{}",
        },
        "karpathy": {"dataset_coco.json": json.dumps(KARPATHY), "dataset_flickr8k.json": json.dumps(KARPATHY)},
        "train2017": image_files("train2017", [9, 25, 74]),
        "val2017": image_files("val2017", [42, 73]),
        "val2014": image_files("val2014", [42, 73, 74]),
    }
    server.files = {f"/{name}.zip": pack(members) for name, members in files.items()}
    return {name: Archive(f"{server.url}/{name}.zip", len(server.files[f"/{name}.zip"])) for name in files}


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


def tree(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.jp*g"))


def annotations(coco):
    return sorted(path.stem for path in (coco / "annotations").glob("*.json"))


def requested(server):
    return sorted({path for path, _ in server.requests})


def test_download_val2017_takes_nothing_of_other_splits(server, run, tmp_path):
    coco = tmp_path / "coco"
    assert "val2017: 2 images are in" in run()
    assert requested(server) == ["/annotations2017.zip", "/val2017.zip"]
    assert annotations(coco) == ["captions_val2017", "instances_val2017"]
    assert [image.id for image in read_split(coco, "val2017")] == [42, 73]
    assert tree(coco) == ["val2017/000000000042.jpg", "val2017/000000000073.jpg"]
    assert (coco / "val2017" / "000000000042.jpg").read_bytes() == content("val2017/000000000042.jpg")


def test_download_karpathy_test_takes_only_its_images(server, run, tmp_path):
    coco = tmp_path / "coco"
    run("--splits", "karpathy_test")
    assert tree(coco) == ["train2017/000000000074.jpg"]  # image 74 is not in val2017
    assert requested(server) == ["/annotations2017.zip", "/karpathy.zip", "/train2017.zip"]
    assert server.bytes_requested("/train2017.zip") < len(server.files["/train2017.zip"]) + 300  # with its directory
    assert {
        split: len(read_split(coco, split, require_images=False))
        for split in ("karpathy_train", "karpathy_val", "karpathy_test", "karpathy_val2017")
    } == {"karpathy_train": 3, "karpathy_val": 1, "karpathy_test": 1, "karpathy_val2017": 1}


def test_download_all_splits_stores_each_image_once(run, tmp_path):
    """COCO 2014 and 2017 have the same images, so Karpathy's splits use those of 2017."""
    coco = tmp_path / "coco"
    run("--splits", "val2017", "train2017", "karpathy_train", "karpathy_val", "karpathy_test", "karpathy_val2017")
    assert [int(Path(name).stem) for name in tree(coco)] == [9, 25, 74, 42, 73]
    assert [image.path for image in read_split(coco, "karpathy_train")][1] == coco / "val2017" / "000000000042.jpg"


def test_download_val2014_has_the_names_of_2014(run, tmp_path):
    run("--splits", "val2014")
    assert read_split(tmp_path / "coco", "val2014")[0].path.name == "COCO_val2014_000000000042.jpg"


def test_download_again_requests_nothing(server, run):
    run("--splits", "val2017", "karpathy_val")
    server.requests.clear()
    run("--splits", "val2017", "karpathy_val")
    assert not server.requests


def test_download_again_requests_only_missing_and_empty_images(server, run, tmp_path):
    run()
    image, other = sorted((tmp_path / "coco" / "val2017").iterdir())
    image.write_bytes(b"")
    kept = other.stat().st_mtime_ns
    server.requests.clear()
    assert "val2017: downloading 1 images of val2017, 0 MB, about 0 s at 100 Mbit/s." in run()
    assert requested(server) == ["/val2017.zip"]
    assert image.read_bytes() == content("val2017/000000000042.jpg")
    assert other.stat().st_mtime_ns == kept


def test_download_annotations_only_skips_images_until_later(server, run):
    run("--splits", "val2017", "karpathy_val", "--annotations-only")
    assert requested(server) == ["/annotations2017.zip", "/karpathy.zip"]
    server.requests.clear()
    run("--splits", "val2017", "karpathy_val")
    assert requested(server) == ["/val2017.zip"]


def test_download_flickr8k_writes_captions_and_says_where_images_belong(run, tmp_path):
    coco = tmp_path / "coco"
    output = run("--splits", "flickr8k")
    assert "The splits train, val, test of flickr8k are in" in output
    assert f"into {coco / 'images'}" in output
    assert [image.path for image in read_split(coco, "val", require_images=False)] == [
        coco / "images" / "COCO_val2014_000000000073.jpg"
    ]


def test_download_annotations_that_lead_out_of_the_directory_are_refused(run, tmp_path):
    directory = tmp_path / "coco" / "annotations"
    directory.mkdir(parents=True)
    (directory / "captions_val2017.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "../../a.jpg"}]}))
    assert "name '../../a.jpg', which is no image of COCO" in run()


def test_download_directory_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / "coco").write_text("a file")
    assert re.search(r"coco.* cannot be written: (File exists|Not a directory)", run())


def test_download_full_disk_keeps_progress(server, run, tmp_path, monkeypatch):
    written, original = [], Path.write_bytes

    def write_bytes(path, data):
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if path.suffix == ".partial" and ".jpg" in path.name:
            written.append(path)
        return original(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        sentence = run()
    assert sentence.startswith("The disk of")
    assert sentence.endswith("Run the same command again to resume.")
    assert len(tree(tmp_path / "coco")) == 1
    assert "downloading 1 images of val2017" in run()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_download_interrupted_resumes_and_excludes_a_second_process(
    server, catalog, run, tmp_path, monkeypatch, number
):
    monkeypatch.setattr("training.data.remote_zip.MAX_RANGE", 150)  # an image each
    run("--annotations-only")
    # The directory of the zip takes two requests; then one image is sent and the other one is not.
    monkeypatch.setattr("training.data.remote_zip.THREADS", 1)
    monkeypatch.setattr("training.data.remote_zip.TIMEOUT", (1, 2))
    server.requests.clear()
    RemoteZip(*catalog["val2017"])
    directory_requests = len(server.requests)
    server.faults = [{}] * (directory_requests + 1) + [{"send": 10, "hang": True}] * 9
    process = fork(lambda: main([str(tmp_path / "coco")], catalog, pause=0), tmp_path / "stderr")
    eventually(lambda: len(tree(tmp_path / "coco")) == 1)
    assert run() == f"Another process is downloading into {tmp_path / 'coco'}."
    os.kill(process.pid, number)
    process.join(60)
    if number == signal.SIGINT:
        assert process.exitcode == 1
        assert (tmp_path / "stderr").read_text().endswith("Stopped. Run the same command again to resume.\n")
    server.faults = []
    assert "downloading 1 images of val2017" in run()
    assert len(tree(tmp_path / "coco")) == 2


def test_catalog_has_https_urls_and_distinct_sizes():
    assert len({archive.size for archive in CATALOG.values()}) == len(CATALOG) == 7
    assert all(archive.url.startswith("https://") for archive in CATALOG.values())

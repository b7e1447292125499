"""The archive: the same bytes each time, and in it what the worker needs and nothing else."""

import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile

import pytest

from handler.errors import BundleError
from support import ROOT, write_tiny_bundle
from training.archive import build_archive


def test_the_same_bytes_each_time(tiny_bundle, tmp_path):
    first = build_archive(tiny_bundle, tmp_path / "one").read_bytes()
    for path in tiny_bundle.iterdir():
        os.utime(path, (0, 0))
        path.chmod(0o600)
    time.sleep(1.1)  # the manifest's time counts in seconds, a zip's in two
    assert build_archive(tiny_bundle, tmp_path / "two").read_bytes() == first


def test_what_is_in_it(tiny_bundle, tmp_path):
    with zipfile.ZipFile(build_archive(tiny_bundle, tmp_path)) as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        assert archive.read("model/vocabulary.txt") == (tiny_bundle / "vocabulary.txt").read_bytes()
    weights = hashlib.sha256((tiny_bundle / "model.safetensors").read_bytes()).hexdigest()
    files = [path.relative_to(ROOT) for path in (ROOT / "handler").rglob("*") if path.is_file()]
    package = {str(file) for file in files if "__pycache__" not in file.parts}
    assert {"handler/page/page.html", "handler/page/main.js", "handler/page/samples/cat.jpg"} <= package
    assert names == (package - {"handler/captioner_service.py", "handler/model-config.yaml"}) | {
        "MAR-INF/MANIFEST.json",
        "captioner_service.py",
        "model-config.yaml",
        "model/captioner.json",
        "model/model.safetensors",
        "model/vocabulary.txt",
        *(f"model/openvino/{weights[:16]}.{kind}" for kind in ("bin", "xml")),
    }
    assert manifest["model"]["handler"] == "captioner_service.py"
    assert manifest["model"]["modelName"] == "captioner"


def test_an_archive_there_already_is_replaced(tmp_path):
    first = build_archive(write_tiny_bundle(tmp_path / "a", seed=1), tmp_path).read_bytes()
    assert build_archive(write_tiny_bundle(tmp_path / "b", seed=2), tmp_path).read_bytes() != first
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["captioner.mar"]


def test_a_damaged_bundle_is_not_packed(tiny_bundle, tmp_path):
    (tiny_bundle / "vocabulary.txt").write_text("a\n")
    with pytest.raises(BundleError):
        build_archive(tiny_bundle, tmp_path / "store")


def test_the_command_says_in_one_sentence_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "training.archive", "nowhere", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "nowhere is no model bundle: captioner.json is missing.\n"

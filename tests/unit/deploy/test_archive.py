"""The archive: the same bytes each time, and in it what the worker needs and nothing else."""

import hashlib
import json
import os
import time
import zipfile

import pytest

from deploy.archive import build_archive
from handler.errors import BundleError
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.commands import run_module_in_process
from tests.helpers.paths import ROOT


def test_the_same_bytes_each_time(tiny_bundle, tmp_path):
    first = build_archive(tiny_bundle, tmp_path / "one").read_bytes()
    for path in tiny_bundle.iterdir():
        os.utime(path, (0, 0))
        path.chmod(0o600)
    time.sleep(1.1)  # the manifest's time counts in seconds, a zip's in two
    assert build_archive(tiny_bundle, tmp_path / "two").read_bytes() == first


def test_a_version_is_in_the_manifest_and_nowhere_else(tiny_bundle, tmp_path):
    first, second = (
        build_archive(tiny_bundle, tmp_path),
        build_archive(tiny_bundle, tmp_path / "captioner-2.0.mar", "2.0"),
    )
    assert [second, tmp_path / "captioner.mar"] == [tmp_path / "captioner-2.0.mar", first]
    assert build_archive(tiny_bundle, tmp_path / "again", "2.0").read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as two:
        assert one.namelist() == two.namelist()
        differ = [name for name in one.namelist() if one.read(name) != two.read(name)]
        assert differ == ["MAR-INF/MANIFEST.json"]
        manifests = [json.loads(archive.read(differ[0]))["model"] for archive in (one, two)]
    assert [manifest.pop("modelVersion") for manifest in manifests] == ["1.0", "2.0"]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("version", ["", "v2", "2.", "1/../2", "2.0 ", "1\n", "2.0-rc1", "1.2.3.4.5", "٣"])
def test_what_is_no_version(tiny_bundle, tmp_path, version):
    with pytest.raises(ValueError, match="A version is numbers with points between"):
        build_archive(tiny_bundle, tmp_path, version)


def test_what_is_in_it(tiny_bundle, tmp_path):
    with zipfile.ZipFile(build_archive(tiny_bundle, tmp_path)) as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        assert archive.read("model/vocabulary.txt") == (tiny_bundle / "vocabulary.txt").read_bytes()
    weights = hashlib.sha256((tiny_bundle / "model.safetensors").read_bytes()).hexdigest()
    files = [path.relative_to(ROOT) for path in (ROOT / "handler").rglob("*") if path.is_file()]
    package = {str(file) for file in files if "__pycache__" not in file.parts}
    assert {
        "handler/serving/demo/page.html",
        "handler/serving/demo/app.js",
        "handler/serving/demo/samples/cat.jpg",
    } <= package
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere is no model bundle: captioner.json is missing."),
        (["pretrained", "--version", "two"], "A version is numbers with points between, such as 2.0, not 'two'."),
    ],
)
def test_the_command_says_in_one_sentence_what_is_wrong(tmp_path, arguments, sentence):
    assert run_module_in_process("deploy.archive", *arguments, "--output", tmp_path) == (1, "", f"{sentence}\n")

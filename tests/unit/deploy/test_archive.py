"""Archives are byte-identical and hold what the worker needs and nothing else."""

import errno
import hashlib
import json
import os
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from deploy.archive import build_archive
from handler.errors import BundleError
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.commands import run_module_in_process
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def archive(bundle, tmp_path_factory) -> Path:
    return build_archive(bundle, tmp_path_factory.mktemp("archive"))


def test_archive_built_later_from_touched_files_is_byte_identical(bundle, archive, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    for path in copy.iterdir():
        os.utime(path, (0, 0))
        path.chmod(0o600)
    modified = archive.stat().st_mtime
    time.sleep(max(0.0, modified + 2.1 - time.time()))  # the manifest counts in seconds, a zip in two
    assert build_archive(copy, tmp_path / "again").read_bytes() == archive.read_bytes()


def test_archive_version_is_in_the_manifest_only(bundle, archive, tmp_path):
    second = build_archive(bundle, tmp_path / "captioner-2.0.mar", "2.0")
    assert second == tmp_path / "captioner-2.0.mar"
    assert archive.name == "captioner.mar"
    with zipfile.ZipFile(archive) as one, zipfile.ZipFile(second) as two:
        assert one.namelist() == two.namelist()
        different = [name for name in one.namelist() if one.read(name) != two.read(name)]
        assert different == ["MAR-INF/MANIFEST.json"]
        manifests = [json.loads(content.read(different[0]))["model"] for content in (one, two)]
    assert [manifest.pop("modelVersion") for manifest in manifests] == ["1.0", "2.0"]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("version", ["", "v2", "2.", "1/../2", "2.0 ", "1\n", "2.0-rc1", "1.2.3.4.5", "٣"])
def test_build_archive_with_invalid_version_raises(bundle, tmp_path, version):
    with pytest.raises(ValueError, match="A version consists of numbers with dots"):
        build_archive(bundle, tmp_path, version)


def test_archive_holds_the_package_the_bundle_and_the_openvino_encoder(bundle, archive):
    with zipfile.ZipFile(archive) as content:
        names = set(content.namelist())
        manifest = json.loads(content.read("MAR-INF/MANIFEST.json"))
        assert content.read("model/vocabulary.txt") == (bundle / "vocabulary.txt").read_bytes()
    weights = hashlib.sha256((bundle / "model.safetensors").read_bytes()).hexdigest()
    files = [path.relative_to(ROOT) for path in (ROOT / "handler").rglob("*") if path.is_file()]
    package = {str(file) for file in files if "__pycache__" not in file.parts}
    demo = ("page.html", "app.js", "samples/cat.jpg")
    assert {f"handler/serving/demo/{name}" for name in demo} <= package
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


def test_build_archive_replaces_an_existing_archive(archive, tmp_path):
    shutil.copy(archive, tmp_path)
    other = build_archive(write_tiny_bundle(tmp_path / "other", seed=1), tmp_path)
    assert other.read_bytes() != archive.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["captioner.mar"]


def test_build_archive_of_damaged_bundle_raises(tiny_bundle, tmp_path):
    (tiny_bundle / "vocabulary.txt").write_text("a\n")
    with pytest.raises(BundleError):
        build_archive(tiny_bundle, tmp_path / "store")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere is no model bundle: captioner.json is missing."),
        (["pretrained", "--version", "two"], "A version consists of numbers with dots, e.g. 2.0, not 'two'."),
    ],
)
def test_archive_command_reports_errors_in_one_sentence(tmp_path, arguments, sentence):
    assert run_module_in_process("deploy.archive", *arguments, "--output", tmp_path) == (1, "", f"{sentence}\n")


@pytest.mark.parametrize("output", ["file/captioner.mar", "file/below/it", "file"])
def test_archive_command_below_a_file_says_so_and_leaves_nothing(tmp_path, output):
    (tmp_path / "file").write_text("x")
    code, printed, error = run_module_in_process("deploy.archive", "pretrained", "--output", tmp_path / output)
    assert (code, printed) == (1, "")
    assert error.rstrip().endswith(("file: File exists.", "below/it: Not a directory.", "below: Not a directory."))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_build_archive_on_a_full_disk_names_the_archive_and_leaves_nothing(bundle, tmp_path, monkeypatch):
    def full(source, target):
        target.write_bytes(b"PK")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("deploy.archive._normalize", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        build_archive(bundle, tmp_path / "store")
    assert caught.value.filename == str(tmp_path / "store" / "captioner.mar")
    assert list((tmp_path / "store").iterdir()) == []


def test_build_archive_with_a_comma_in_the_temporary_directory_says_so(bundle, tmp_path, monkeypatch):
    (tmp_path / "a,b").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a,b"))
    with pytest.raises(ValueError, match=r"no comma in its path: .*a,b.* Set TMPDIR\."):
        build_archive(bundle, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []

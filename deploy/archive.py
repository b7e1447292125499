"""Packs a bundle and the handler into an archive for TorchServe, byte for byte the same each time.

python -m deploy.archive pretrained
python -m deploy.archive runs/transformer-lite2-flickr8k/bundle --version 2.0 --output model_store/captioner-2.0.mar
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging import generate_model_archive

from handler.backends.openvino import export_openvino
from handler.bundle import CONFIG, VOCABULARY, WEIGHTS, load_bundle, verify_bundle
from handler.errors import BundleError

HANDLER = Path(__file__).parent.parent / "handler"
ENTRY, SETTINGS = "captioner_service.py", "model-config.yaml"
NAME, VERSION = "captioner", "1.0"
VERSIONS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")  # they stand in URLs and in the names of workers
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can name


def build_archive(bundle: Path, output: Path, version: str = VERSION) -> Path:
    """Writes an archive.

    In it: TorchServe's entry and settings at the root, the package `handler/`, and the bundle as `model/`, with its
    encoder as OpenVINO takes it where that is installed, so that no worker has to convert it.

    Args:
        bundle: checked first.
        output: a file that ends in `.mar`, or the folder for `captioner.mar`; made where it is missing.
        version: what TorchServe and the answers call the model; numbers with points, such as 2.0.

    Returns:
        The archive's path.

    Raises:
        BundleError: the bundle is incomplete or damaged.
        ValueError: the version is none.
    """
    if not VERSIONS.fullmatch(version):
        raise ValueError(f"A version is numbers with points between, such as 2.0, not '{version}'.")
    verify_bundle(bundle)
    archive = output if output.suffix == ".mar" else output / f"{NAME}.mar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    # The packaging code empties $TMPDIR/<name> first; in a folder of our own, builds side by side can't meet.
    with tempfile.TemporaryDirectory() as scratch, _tempdir(scratch):
        stage = Path(scratch, "stage")
        unwanted = shutil.ignore_patterns("__pycache__", ENTRY, SETTINGS)
        shutil.copytree(HANDLER, stage / "handler", ignore=unwanted)
        (stage / "model").mkdir()
        for name in (CONFIG, WEIGHTS, VOCABULARY):
            shutil.copy(bundle / name, stage / "model" / name)
        export_openvino(*load_bundle(bundle)[:2], stage / "model")
        generate_model_archive(
            ModelArchiverConfig(
                model_name=NAME,
                version=version,
                handler=str(HANDLER / ENTRY),
                config_file=str(HANDLER / SETTINGS),
                extra_files=str(stage),
                export_path=scratch,
            )
        )
        partial = archive.with_name(f".{archive.stem}.{os.getpid()}.partial")
        _rewrite(Path(scratch, f"{NAME}.mar"), partial)
        os.replace(partial, archive)
    return archive


def _rewrite(source: Path, target: Path) -> None:
    """Copies a zip without what differs from build to build: order, times, permissions, compression, `createdOn`."""
    with zipfile.ZipFile(source) as built, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as fixed:
        for name in sorted(built.namelist()):
            content = built.read(name)
            if name == "MAR-INF/MANIFEST.json":
                manifest = json.loads(content) | {"createdOn": "01/01/1980 00:00:00"}
                content = json.dumps(manifest, indent=2, sort_keys=True).encode()
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            fixed.writestr(entry, content)


@contextmanager
def _tempdir(folder: str) -> Iterator[None]:
    """Has `tempfile` use a folder for a while."""
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = before


def main() -> None:
    parser = argparse.ArgumentParser(description="Packs a bundle into an archive for TorchServe.")
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--version", default=VERSION, help="what the answers call it, such as 2.0")
    parser.add_argument("--output", type=Path, default=Path("model_store"), help="the archive's folder, or a .mar file")
    arguments = parser.parse_args()
    try:
        archive = build_archive(arguments.bundle, arguments.output, arguments.version)
    except (BundleError, ValueError) as error:
        sys.exit(str(error))
    print(f"{arguments.bundle} -> {archive}, sha256 {hashlib.sha256(archive.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()

"""Pack a bundle and the handler into a TorchServe archive, byte-identical on every build.

python -m deploy.archive pretrained
python -m deploy.archive runs/transformer-lite2-flickr8k/bundle --version 2.0 --output model_store/captioner-2.0.mar
python -m deploy.archive pretrained --calibrate ../shared/data/flickr8k/train
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from model_archiver.model_archiver_config import ModelArchiverConfig  # type: ignore[import-untyped]
from model_archiver.model_packaging import generate_model_archive  # type: ignore[import-untyped]

from handler.backends.openvino import copy_int8_encoder, export_openvino
from handler.bundle import CONFIG, VOCABULARY, WEIGHTS, load_bundle, verify_bundle
from handler.cli import cli_errors
from handler.serving.settings import Settings

HANDLER = Path(__file__).parent.parent / "handler"
HANDLER_FILE = "captioner_service.py"  # TorchServe entry point
MODEL_CONFIG = "model-config.yaml"
MODEL_NAME, DEFAULT_VERSION = "captioner", "1.0"
VERSION_PATTERN = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")  # part of URLs and of worker names
EPOCH = (1980, 1, 1, 0, 0, 0)  # earliest time that a zip entry can have


def build_archive(bundle: Path, output: Path, version: str = DEFAULT_VERSION) -> Path:
    """Build a TorchServe archive.

    It holds the TorchServe entry point and `model-config.yaml` at the root, the package `handler/`, and the bundle as
    `model/`. The encoder is also stored in OpenVINO format if OpenVINO is installed, so that workers need not convert.
    The 8-bit encoder is included if the bundle has one, see `deploy.quantize_encoder`.

    Args:
        bundle: Bundle directory; it is verified first.
        output: A file that ends in `.mar`, or a directory for `captioner.mar`; created if missing.
        version: Model version in URLs and responses: up to four numbers with dots, e.g. 2.0.

    Returns:
        Path of the archive.

    Raises:
        BundleError: If the bundle is incomplete or damaged.
        ValueError: If the version has another format, or `model-config.yaml` has an invalid setting.
        OSError: If the archive cannot be written, e.g. because the disk is full.
    """
    if not VERSION_PATTERN.fullmatch(version):
        raise ValueError(f"A version consists of numbers with dots, e.g. 2.0, not '{version}'.")
    verify_bundle(bundle)
    Settings.from_model_config(yaml.safe_load((HANDLER / MODEL_CONFIG).read_text(encoding="utf-8")))
    archive = output if output.suffix == ".mar" else output / f"{MODEL_NAME}.mar"
    # The packaging code empties $TMPDIR/<name> first; a separate directory keeps concurrent builds apart.
    with _replaced(archive) as partial, tempfile.TemporaryDirectory() as scratch, _temp_dir(scratch):
        if "," in scratch:  # the packaging code splits paths there
            raise ValueError(f"The temporary directory must have no comma in its path: {scratch}. Set TMPDIR.")
        stage = Path(scratch, "stage")
        ignore = shutil.ignore_patterns("__pycache__", HANDLER_FILE, MODEL_CONFIG)
        shutil.copytree(HANDLER, stage / "handler", ignore=ignore)
        (stage / "model").mkdir()
        for name in (CONFIG, WEIGHTS, VOCABULARY):
            shutil.copy(bundle / name, stage / "model" / name)
        config, weights, _ = load_bundle(bundle)
        export_openvino(config, weights, stage / "model")
        copy_int8_encoder(config, bundle, stage / "model")
        generate_model_archive(
            ModelArchiverConfig(
                model_name=MODEL_NAME,
                version=version,
                handler=str(HANDLER / HANDLER_FILE),
                config_file=str(HANDLER / MODEL_CONFIG),
                extra_files=str(stage),
                export_path=scratch,
            )
        )
        _normalize(Path(scratch, f"{MODEL_NAME}.mar"), partial)
    return archive


@contextmanager
def _replaced(archive: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `archive` if the block succeeds, and is removed if it does not.

    It is created first: where no archive can be written, the work of the block is saved.

    Raises:
        OSError: If the archive cannot be written. The error names a path.
    """
    partial = archive.with_name(f".{archive.stem}.{os.getpid()}.partial")  # concurrent builds may share a target
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        yield partial
        partial.replace(archive)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(error.filename or archive)) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _normalize(source: Path, target: Path) -> None:
    """Copy a zip with fixed order, times, permissions, compression and `createdOn`."""
    with zipfile.ZipFile(source) as built, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as normalized:
        for name in sorted(built.namelist()):
            content = built.read(name)
            if name == "MAR-INF/MANIFEST.json":
                manifest = json.loads(content) | {"createdOn": "01/01/1980 00:00:00"}
                content = json.dumps(manifest, indent=2, sort_keys=True).encode()
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            normalized.writestr(entry, content)


@contextmanager
def _temp_dir(directory: str) -> Iterator[None]:
    """Temporarily set the default directory of `tempfile`."""
    previous, tempfile.tempdir = tempfile.tempdir, directory
    try:
        yield
    finally:
        tempfile.tempdir = previous


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.archive", description="Pack a bundle into an archive for TorchServe."
    )
    parser.add_argument("bundle", type=Path, help="bundle directory")
    parser.add_argument("--version", default=DEFAULT_VERSION, help="model version in responses, e.g. 2.0")
    parser.add_argument("--output", type=Path, default=Path("model_store"), help="directory or .mar file")
    parser.add_argument(
        "--calibrate", metavar="DIR", help="first make the bundle's 8-bit encoder with the training images in DIR"
    )
    arguments = parser.parse_args()
    with cli_errors(ValueError, ModuleNotFoundError):
        if arguments.calibrate:
            from deploy.quantize_encoder import quantize_encoder  # needs packages that packing alone does not

            print(f"8-bit encoder -> {quantize_encoder(arguments.bundle, arguments.calibrate)}")
        archive = build_archive(arguments.bundle, arguments.output, arguments.version)
    print(f"{arguments.bundle} -> {archive}, sha256 {hashlib.sha256(archive.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()

"""The 8-bit encoder of a bundle: made from images, offered to the worker, packed into the archive."""

import zipfile

import pytest
import torch

from deploy.archive import build_archive
from deploy.quantize_encoder import quantize_encoder
from handler.captioner import Captioner
from handler.errors import BundleError
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.commands import run_module_in_process
from tests.helpers.paths import PHOTOS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle with an 8-bit encoder."""
    directory = write_tiny_bundle(tmp_path_factory.mktemp("quantized") / "bundle")
    with pytest.raises(BundleError, match="not in int8"):
        Captioner.load(directory, backend="openvino", precision="int8")
    path = quantize_encoder(directory, str(PHOTOS[0].parent))
    assert path.parent == directory / "openvino"
    return directory


@pytest.mark.slow
def test_int8_encoder_is_close_to_float32_and_the_same_in_any_batch(bundle):
    reference, captioner = (Captioner.load(bundle, backend="openvino", precision=name) for name in ("full", "int8"))
    pixels = torch.stack([reference.preprocess(photo) for photo in PHOTOS[:3]])
    expected, grid = reference.encode(pixels), captioner.encode(pixels)
    assert not torch.equal(grid, expected)
    assert (grid - expected).norm() < 0.2 * expected.norm()
    assert torch.equal(captioner.encode(pixels[1:2]), grid[1:2])
    assert captioner.engine.summary["encoder_precision"] == "int8"


@pytest.mark.slow
def test_archive_includes_the_int8_encoder_of_the_bundle(bundle, tmp_path):
    with zipfile.ZipFile(build_archive(bundle, tmp_path)) as archive:
        names = {name for name in archive.namelist() if "-int8" in name}
        for path in (bundle / "openvino").glob("*-int8.*"):
            assert archive.read(f"model/openvino/{path.name}") == path.read_bytes()
    assert {name.rpartition(".")[2] for name in names} == {"xml", "bin"}


def test_archive_command_without_calibration_images_reports_it(tiny_bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = [tiny_bundle, "--output", tmp_path, "--calibrate", tmp_path / "empty"]
    status, _, error = run_module_in_process("deploy.archive", *arguments)
    assert (status, error) == (1, f"No image found at {tmp_path / 'empty'}.\n")

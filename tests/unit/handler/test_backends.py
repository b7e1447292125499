"""Backends and precisions against the reference, eager PyTorch in float32."""

import subprocess
import sys
import zipfile

import pytest
import torch

from deploy.archive import build_archive
from handler.backends import ModelSource, build_engine
from handler.backends.engine import decoder_quantization
from handler.backends.openvino import convert, converted_path, save_converted
from handler.backends.pytorch import bucket_sizes, split_batches
from handler.backends.quantize import (
    Bf16Linear,
    Int8Linear,
)
from handler.bundle import load_bundle
from handler.captioner import Captioner
from handler.errors import BundleError
from handler.generation import GenerationConfig
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS, ROOT

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("backend", "precision"), [("eager", "fastest"), ("openvino", "full"), ("auto", "fastest"), ("compile", "full")]
)
def test_backend_is_close_to_the_reference(tmp_path, backend, precision):
    write_tiny_bundle(tmp_path)
    reference = Captioner.load(tmp_path)
    captioner = Captioner.load(tmp_path, backend=backend, precision=precision)
    assert captioner.engine.backend == ("openvino" if backend == "auto" else backend)
    pixels = torch.stack([reference.preprocess(photo) for photo in PHOTOS[:3]])
    expected, grid = reference.encode(pixels), captioner.encode(pixels)
    tolerance = 1e-4 if precision == "full" else 0.1  # bfloat16, if the CPU supports it
    assert (grid - expected).norm() < tolerance * expected.norm()
    assert grid.dtype == torch.float32


@pytest.mark.parametrize("precision", ["fast", "fastest"])
def test_fast_precision_gives_the_same_captions(pretrained, precision):
    fast = Captioner.load(ROOT / "pretrained", backend="auto", precision=precision)
    options = GenerationConfig(beam_size=3)
    pairs = list(zip(fast.caption(PHOTOS, options), pretrained.caption(PHOTOS, options), strict=True))
    assert sum(ours.tokens == theirs.tokens for [ours], [theirs] in pairs) >= len(PHOTOS) - 2
    for [ours], [theirs] in pairs:
        assert ours.score == pytest.approx(theirs.score, abs=0.1)


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cpu", "full", "float32"),
        ("cpu", "fast", None),  # measured
        ("cpu", "fastest", None),
        ("cpu", "int8", "int8"),
        ("cuda", "full", "float32"),
        ("cuda", "fast", "float16"),
        ("cuda", "fastest", "float16"),
    ],
)
def test_encoder_precision_depends_on_device_and_setting(device, precision, expected):
    assert ModelSource(None, {}, torch.device(device), precision).encoder_precision == expected


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_bfloat16_encoder_is_close_to_float32(tiny_bundle, backend):
    reference = Captioner.load(tiny_bundle)
    pixels = torch.stack([reference.preprocess(photo) for photo in PHOTOS[:3]])
    try:
        rounded = Captioner.load(tiny_bundle, backend=backend, precision="bfloat16")
    except BundleError as error:
        pytest.skip(str(error))  # this CPU has no instructions for it
    expected, grid = reference.encode(pixels), rounded.encode(pixels)
    assert not torch.equal(grid, expected)
    assert (grid - expected).norm() < 0.1 * expected.norm()
    assert rounded.engine.summary["encoder_precision"] == "bfloat16"


def test_fast_precision_of_eager_and_openvino_is_measured(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for backend in ("eager", "openvino"):
        summary = Captioner.load(tiny_bundle, backend=backend, precision="fast").engine.summary
        times = summary["measured_ms_per_image"]
        assert summary["encoder_precision"] in (times or ["float32"])  # nothing to measure if float32 is all there is
        assert all(milliseconds > 0 for milliseconds in times.values())


def test_unknown_backend_or_precision_is_rejected(tiny_bundle):
    with pytest.raises(ValueError, match="backend must be one of auto, eager, compile, openvino, not 'onnx'"):
        Captioner.load(tiny_bundle, backend="onnx")
    with pytest.raises(ValueError, match="one of full, fast, fastest, bfloat16, float16, int8, not 'half'"):
        Captioner.load(tiny_bundle, precision="half")


def test_encoder_that_openvino_cannot_convert_runs_on_pytorch(tiny_bundle, tmp_path, monkeypatch, capsys, caplog):
    """The archive is built without a converted encoder, and PyTorch runs it."""

    def refuse(*_):
        raise RuntimeError("no conversion rule for aten::odd")

    monkeypatch.setattr("handler.backends.openvino.convert", refuse)
    with zipfile.ZipFile(build_archive(tiny_bundle, tmp_path / "store")) as archive:
        assert not [name for name in archive.namelist() if "openvino/" in name]
    assert capsys.readouterr().err.endswith(
        "cannot convert the encoder test_efficientnet: no conversion rule for aten::odd\n"
    )
    assert Captioner.load(tiny_bundle, backend="auto").engine.backend == "eager"
    assert "OpenVINO cannot run this encoder" in caplog.text
    with pytest.raises(BundleError, match="no conversion rule"):
        Captioner.load(tiny_bundle, backend="openvino")


@pytest.mark.parametrize(("images", "sizes"), [(1, [1]), (3, [2, 1]), (13, [8, 4, 1]), (35, [16, 16, 2, 1])])
def test_split_batches_uses_bucket_sizes(images, sizes):
    assert bucket_sizes(images, 16) == sizes
    given = []
    encode = split_batches(lambda pixels: given.append(len(pixels)) or pixels + 1, 16)
    assert torch.equal(encode(torch.arange(images)), torch.arange(images) + 1)
    assert given == sizes


def source(directory, precision="full") -> ModelSource:
    return ModelSource(*load_bundle(directory)[:2], CPU, precision, directory)


def test_converted_encoder_is_reproducible_and_used(tiny_bundle):
    made = []
    for _ in range(2):
        path = converted_path(source(tiny_bundle))
        save_converted(convert(source(tiny_bundle)), path)
        made.append((path.read_bytes(), path.with_suffix(".bin").read_bytes()))
    assert made[0] == made[1]
    script = (
        "import sys; from handler import Captioner; Captioner.load(sys.argv[1], backend='openvino');"
        "print('timm' in sys.modules, 'torchvision' in sys.modules, sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", script, tiny_bundle], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False False None\n", done.stderr  # neither is imported, and the telemetry is off


def test_converted_encoder_of_other_weights_is_not_used(tmp_path):
    write_tiny_bundle(tmp_path / "one", seed=1)
    save_converted(convert(source(tmp_path / "one")), converted_path(source(tmp_path / "one")))
    write_tiny_bundle(tmp_path / "one", seed=2)
    assert not converted_path(source(tmp_path / "one")).exists()
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    engine = build_engine(source(tmp_path / "one"), load_bundle(tmp_path / "one")[2], "openvino")
    torch.testing.assert_close(
        engine.encode(pixels), Captioner.load(tmp_path / "one").encode(pixels), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("device", "precision", "bfloat16", "expected"),
    [
        ("cpu", "full", True, None),
        ("cpu", "fast", True, None),
        ("cpu", "fastest", True, Bf16Linear),
        ("cpu", "fastest", False, Int8Linear),
        ("cuda", "fastest", True, None),
    ],
)
def test_decoder_quantization_depends_on_device_precision_and_cpu(monkeypatch, device, precision, bfloat16, expected):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bfloat16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("handler.backends.engine.supports_bf16_linear", lambda: True)
    assert decoder_quantization(ModelSource(None, {}, torch.device(device), precision)) is expected

"""Ways to run a model: they agree with the reference, and nothing depends on the batch."""

import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn

from deploy.archive import build_archive
from handler.backends import ModelSource, build_engine
from handler.backends.engine import decoder_quantization, reduced_dtype
from handler.backends.openvino import converted_path, save_converted
from handler.backends.pytorch import bucket_sizes, split_batches
from handler.backends.quantize import (
    Bf16Linear,
    Int8Linear,
    QuantizedLSTMCell,
    quantize_decoder,
    supports_bf16_linear,
    to_half,
)
from handler.bundle import load_bundle
from handler.captioner import Captioner
from handler.errors import BundleError
from handler.generation import GenerationConfig, generate
from handler.modeling import DECODERS, build_decoder
from handler.modeling.decoder import expand_state
from handler.modeling.layers import BeamLSTMCell
from handler.modeling.vocabulary import SPECIAL, Vocabulary
from tests.helpers.bundles import small_config, write_tiny_bundle
from tests.helpers.paths import PHOTOS, ROOT

CPU = torch.device("cpu")
LINEARS = [Int8Linear, Bf16Linear] if supports_bf16_linear() else [Int8Linear]


@pytest.mark.parametrize(
    ("backend", "precision"), [("eager", "fastest"), ("openvino", "full"), ("auto", "fastest"), ("compile", "full")]
)
def test_every_backend_gives_the_references_grids(tmp_path, backend, precision):
    write_tiny_bundle(tmp_path)
    reference = Captioner.load(tmp_path)
    captioner = Captioner.load(tmp_path, backend=backend, precision=precision)
    assert captioner.engine.backend == ("openvino" if backend == "auto" else backend)
    pixels = torch.stack([reference.preprocess(photo) for photo in PHOTOS[:3]])
    expected, found = reference.encode(pixels), captioner.encode(pixels)
    tolerance = 1e-4 if precision == "full" else 0.1  # bfloat16, where the processor has it
    assert (found - expected).norm() < tolerance * expected.norm()
    assert found.dtype == torch.float32


@pytest.mark.parametrize("precision", ["fast", "fastest"])
def test_the_fast_ways_say_the_same(pretrained, precision):
    fast = Captioner.load(ROOT / "pretrained", backend="auto", precision=precision)
    options = GenerationConfig(beam_size=3)
    pairs = list(zip(fast.caption(PHOTOS, options), pretrained.caption(PHOTOS, options), strict=True))
    assert sum(ours.tokens == theirs.tokens for [ours], [theirs] in pairs) >= len(PHOTOS) - 2
    for [ours], [theirs] in pairs:
        assert ours.score == pytest.approx(theirs.score, abs=0.1)


@pytest.mark.parametrize(
    ("device", "precision", "bfloat16", "expected"),
    [
        ("cpu", "full", True, None),
        ("cpu", "fast", True, torch.bfloat16),
        ("cpu", "fastest", True, torch.bfloat16),
        ("cpu", "fast", False, None),
        ("cuda", "full", True, None),
        ("cuda", "fast", False, torch.float16),
        ("cuda", "fastest", False, torch.float16),
    ],
)
def test_half_precision(monkeypatch, device, precision, bfloat16, expected):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bfloat16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    assert reduced_dtype(ModelSource(None, {}, torch.device(device), precision)) == expected


def test_bfloat16_is_near(tiny_bundle, monkeypatch):
    """Also on a processor without instructions for it, which takes its time."""
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    reference, halved = Captioner.load(tiny_bundle), Captioner.load(tiny_bundle, precision="fastest")
    pixels = torch.stack([reference.preprocess(photo) for photo in PHOTOS[:3]])
    expected, found = reference.encode(pixels), halved.encode(pixels)
    assert not torch.equal(found, expected)
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_no_such_backend(tiny_bundle):
    with pytest.raises(ValueError, match="backend must be one of auto, eager, compile, openvino, not 'onnx'"):
        Captioner.load(tiny_bundle, backend="onnx")
    with pytest.raises(ValueError, match="precision must be one of full, fast, fastest, not 'half'"):
        Captioner.load(tiny_bundle, precision="half")


def test_an_encoder_that_openvino_does_not_take(tiny_bundle, tmp_path, monkeypatch, capsys, caplog):
    """An archive is made all the same, and PyTorch runs it."""

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
def test_buckets(images, sizes):
    assert bucket_sizes(images, 16) == sizes
    given = []
    encode = split_batches(lambda pixels: given.append(len(pixels)) or pixels + 1, 16)
    assert torch.equal(encode(torch.arange(images)), torch.arange(images) + 1)
    assert given == sizes


def source(folder, precision="full") -> ModelSource:
    return ModelSource(*load_bundle(folder)[:2], CPU, precision, folder)


def test_a_converted_encoder_is_the_same_to_the_byte_and_used(tiny_bundle):
    made = []
    for _ in range(2):
        save_converted(source(tiny_bundle))
        path = converted_path(source(tiny_bundle))
        made.append((path.read_bytes(), path.with_suffix(".bin").read_bytes()))
    assert made[0] == made[1]
    script = (
        "import sys; from handler import Captioner; Captioner.load(sys.argv[1], backend='openvino');"
        "print('timm' in sys.modules, 'torchvision' in sys.modules, sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", script, tiny_bundle], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False False None\n", done.stderr  # neither imported, nor does anybody hear of it


def test_another_encoders_conversion_is_not_taken(tmp_path):
    write_tiny_bundle(tmp_path / "one", seed=1)
    save_converted(source(tmp_path / "one"))
    write_tiny_bundle(tmp_path / "one", seed=2)
    assert not converted_path(source(tmp_path / "one")).exists()
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    engine = build_engine(source(tmp_path / "one"), load_bundle(tmp_path / "one")[2], "openvino")
    torch.testing.assert_close(
        engine.encode(pixels), Captioner.load(tmp_path / "one").encode(pixels), atol=1e-4, rtol=1e-3
    )


@torch.inference_mode()
def test_integers_by_hand():
    """Weights 127 : 1 keep their amounts at a scale of 1 / 127; an input 63 : 21 at one of its largest / 63."""
    linear = Int8Linear(torch.tensor([[1.0, 1 / 127], [-0.5, 0.5]]), torch.tensor([0.25, 0.0]))
    # 63 · 127 + 21 · 1 = 8022, by 63 · 127 and by the largest, 3; then the bias
    expected = [8022 / (63 * 127) * 3 + 0.25, (-63 + 21) / 63 * 0.5 * 3]
    torch.testing.assert_close(linear(torch.tensor([[3.0, 1.0]]))[0], torch.tensor(expected))
    torch.testing.assert_close(linear(torch.zeros(1, 2)), torch.tensor([[0.25, 0.0]]))
    positive = Int8Linear(torch.tensor([[1.0, 1.0]]), None, nonnegative_input=True)
    torch.testing.assert_close(positive(torch.tensor([[127.0, 1.0]])), torch.tensor([[128.0]]))


@torch.inference_mode()
def test_bfloat16_by_hand():
    """It keeps eight bits: 1 + 1/256 becomes 1, and 257 becomes 256."""
    if not supports_bf16_linear():
        with pytest.raises(RuntimeError, match="needs the cpu support"):
            Bf16Linear(torch.eye(2), None)
        return
    linear = Bf16Linear(torch.tensor([[1 + 1 / 256, 1.0], [0.0, 257.0]]), torch.tensor([0.5, 0.0]))
    found = linear(torch.tensor([[[2.0, 3.0], [1 + 1 / 256, 0.0]]]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[[5.5, 768.0], [1.5, 0.0]]]
    assert Bf16Linear(torch.eye(2), None)(torch.tensor([3.0, 5.0])).tolist() == [3.0, 5.0]


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
def test_how_a_decoder_is_rounded(monkeypatch, device, precision, bfloat16, expected):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bfloat16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("handler.backends.engine.supports_bf16_linear", lambda: True)
    assert decoder_quantization(ModelSource(None, {}, torch.device(device), precision)) is expected


@torch.inference_mode()
def test_a_rows_result_is_the_same_to_the_bit_in_any_batch():
    torch.manual_seed(0)
    layer = nn.Linear(384, 1536)
    linear = Int8Linear(layer.weight, layer.bias)
    rows = torch.randn(80, 384) * torch.logspace(-3, 3, 80).unsqueeze(1)
    together = linear(rows)
    for size in (1, 3, 7, 48):
        assert torch.equal(torch.cat([linear(part) for part in rows.split(size)]), together)
    exact = layer(rows)
    assert ((together - exact).norm(dim=1) < 0.03 * exact.norm(dim=1)).all()


@torch.inference_mode()
def test_the_largest_sums_do_not_overflow():
    """All weights and inputs at their ends: pairs of their products have to fit into 16 bits."""
    ends = torch.ones(16, 512)
    for positive in (False, True):
        found = Int8Linear(ends, None, nonnegative_input=positive)(torch.ones(3, 512))
        torch.testing.assert_close(found, torch.full((3, 16), 512.0))


@pytest.mark.parametrize("linear", LINEARS)
@torch.inference_mode()
def test_an_lstm_of_rounded_numbers(linear):
    torch.manual_seed(0)
    cell = BeamLSTMCell(24, 32)
    given = torch.randn(2, 3, 24), torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    for found, expected in zip(QuantizedLSTMCell(cell, linear)(*given), cell(*given), strict=True):
        torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_every_decoder_in_float16(name):
    """As a GPU has it: weights that matrices are multiplied by in half, those that normalise in single precision."""
    torch.manual_seed(0)
    config = small_config(name, embed_dim=16, hidden_dim=24, ffn_dim=24, attention_dim=8)
    decoder = build_decoder(config, 44, 12).eval()
    before = {key: tensor.clone() for key, tensor in decoder.state_dict().items()}
    halved = to_half(decoder)
    assert all(torch.equal(tensor, before[key]) for key, tensor in decoder.state_dict().items())
    normalising = {
        id(p) for module in halved.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()
    }
    for parameter in halved.parameters():
        assert parameter.dtype == (torch.float32 if id(parameter) in normalising else torch.float16)

    grid, tokens = torch.randn(6, 9, 12), torch.randint(4, 44, (6, 3))
    memory, state = decoder.init_state(grid)
    expected = decoder.step(tokens, expand_state(state, 3), memory).logits
    with torch.autocast("cpu", torch.float16):
        memory, state = halved.init_state(grid)
        found = halved.step(tokens, expand_state(state, 3), memory).logits
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("linear", LINEARS)
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_rounded(name, linear):
    """Beside others as alone, and near what single precision says; the decoder itself stays as it is."""
    torch.manual_seed(0)
    vocabulary = Vocabulary((*SPECIAL, *(f"w{i}" for i in range(40))))
    config = small_config(name, embed_dim=16, hidden_dim=24, ffn_dim=24, attention_dim=8)
    decoder = build_decoder(config, 44, 12).eval()
    before = {key: tensor.clone() for key, tensor in decoder.state_dict().items()}
    rounded = quantize_decoder(decoder, linear)
    assert not [module for module in rounded.modules() if type(module) is nn.Linear and module.out_features >= 8]
    assert all(torch.equal(tensor, before[key]) for key, tensor in decoder.state_dict().items())
    grid, options = torch.randn(6, 9, 12), GenerationConfig(beam_size=3, max_length=8)
    together = generate(rounded, grid, [options] * 6, vocabulary)
    for place, [best] in enumerate(together):
        [[alone]] = generate(rounded, grid[place : place + 1], [options], vocabulary)
        assert best.token_ids == alone.token_ids
        assert best.logprobs == pytest.approx(alone.logprobs, abs=1e-5 if linear is Int8Linear else 0.02)
        [[exact]] = generate(decoder, grid[place : place + 1], [options], vocabulary)
        assert best.score == pytest.approx(exact.score, abs=0.1)

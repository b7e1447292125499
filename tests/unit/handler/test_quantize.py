"""Reduced-precision layers against hand-worked products, and decoders made of them against float32."""

import pytest
import torch
from torch import nn

from handler.backends.quantize import (
    MIN_OUT_FEATURES,
    Bf16Linear,
    Int8Linear,
    QuantizedLSTMCell,
    quantize_decoder,
    supports_bf16_linear,
    to_half,
)
from handler.generation import GenerationConfig, generate
from handler.modeling import DECODERS, build_decoder
from handler.modeling.decoder import expand_state
from handler.modeling.layers import BeamLSTMCell
from handler.modeling.vocabulary import SPECIAL, Vocabulary
from tests.helpers.bundles import small_config

LINEARS = [Int8Linear, Bf16Linear] if supports_bf16_linear() else [Int8Linear]


@torch.inference_mode()
def test_int8_linear_follows_the_hand_worked_example():
    """Weights 127 : 1 are exact at a scale of 1 / 127, inputs 63 : 21 at a scale of the largest / 63."""
    linear = Int8Linear(torch.tensor([[1.0, 1 / 127], [-0.5, 0.5]]), torch.tensor([0.25, 0.0]))
    # 63 · 127 + 21 · 1 = 8022, by 63 · 127 and by the largest, 3; then the bias
    expected = [8022 / (63 * 127) * 3 + 0.25, (-63 + 21) / 63 * 0.5 * 3]
    torch.testing.assert_close(linear(torch.tensor([[3.0, 1.0]]))[0], torch.tensor(expected))
    torch.testing.assert_close(linear(torch.zeros(1, 2)), torch.tensor([[0.25, 0.0]]))
    positive = Int8Linear(torch.tensor([[1.0, 1.0]]), None, nonnegative_input=True)
    torch.testing.assert_close(positive(torch.tensor([[127.0, 1.0]])), torch.tensor([[128.0]]))


@torch.inference_mode()
def test_bf16_linear_follows_the_hand_worked_example():
    """bfloat16 has eight significant bits: 1 + 1/256 becomes 1, and 257 becomes 256."""
    if not supports_bf16_linear():
        with pytest.raises(RuntimeError, match="needs the cpu support"):
            Bf16Linear(torch.eye(2), None)
        return
    linear = Bf16Linear(torch.tensor([[1 + 1 / 256, 1.0], [0.0, 257.0]]), torch.tensor([0.5, 0.0]))
    found = linear(torch.tensor([[[2.0, 3.0], [1 + 1 / 256, 0.0]]]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[[5.5, 768.0], [1.5, 0.0]]]
    assert Bf16Linear(torch.eye(2), None)(torch.tensor([3.0, 5.0])).tolist() == [3.0, 5.0]


@torch.inference_mode()
def test_int8_linear_row_is_the_same_to_the_bit_in_any_batch():
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
def test_int8_linear_does_not_overflow():
    """With the largest weights and inputs, sums of two products have to fit into 16 bits."""
    ends = torch.ones(16, 512)
    for positive in (False, True):
        found = Int8Linear(ends, None, nonnegative_input=positive)(torch.ones(3, 512))
        torch.testing.assert_close(found, torch.full((3, 16), 512.0))


@pytest.mark.parametrize("linear", LINEARS)
@torch.inference_mode()
def test_quantized_lstm_cell_is_close_to_float32(linear):
    torch.manual_seed(0)
    cell = BeamLSTMCell(24, 32)
    given = torch.randn(2, 3, 24), torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    for found, expected in zip(QuantizedLSTMCell(cell, linear)(*given), cell(*given), strict=True):
        torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_to_half_decoder_is_close_to_float32(name):
    """As on a GPU: matrices in float16, layer norms in float32."""
    torch.manual_seed(0)
    config = small_config(name, embed_dim=16, hidden_dim=24, ffn_dim=24, attention_dim=8)
    decoder = build_decoder(config, 44, 12).eval()
    before = {key: tensor.clone() for key, tensor in decoder.state_dict().items()}
    half = to_half(decoder)
    assert all(torch.equal(tensor, before[key]) for key, tensor in decoder.state_dict().items())
    normalization = {
        id(p) for module in half.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()
    }
    for parameter in half.parameters():
        assert parameter.dtype == (torch.float32 if id(parameter) in normalization else torch.float16)

    grid, tokens = torch.randn(6, 9, 12), torch.randint(4, 44, (6, 3))
    memory, state = decoder.init_state(grid)
    expected = decoder.step(tokens, expand_state(state, 3), memory).logits
    with torch.autocast("cpu", torch.float16):
        memory, state = half.init_state(grid)
        found = half.step(tokens, expand_state(state, 3), memory).logits
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("linear", LINEARS)
@pytest.mark.parametrize("name", DECODERS)
def test_quantized_decoder_is_close_to_float32(name, linear):
    """In a batch as alone, and close to float32; the original decoder does not change."""
    torch.manual_seed(0)
    vocabulary = Vocabulary((*SPECIAL, *(f"w{i}" for i in range(40))))
    config = small_config(name, embed_dim=16, hidden_dim=24, ffn_dim=24, attention_dim=8)
    decoder = build_decoder(config, 44, 12).eval()
    before = {key: tensor.clone() for key, tensor in decoder.state_dict().items()}
    quantized = quantize_decoder(decoder, linear)
    unquantized = [key for key, p in quantized.named_parameters() if p.ndim == 2 and len(p) >= MIN_OUT_FEATURES]
    assert unquantized == ["embedding.weight"]  # rows are read, not multiplied
    assert all(torch.equal(tensor, before[key]) for key, tensor in decoder.state_dict().items())
    grid, options = torch.randn(6, 9, 12), GenerationConfig(beam_size=3, max_length=8)
    together = generate(quantized, grid, [options] * 6, vocabulary)
    for image, [best] in enumerate(together):
        [[alone]] = generate(quantized, grid[image : image + 1], [options], vocabulary)
        assert best.token_ids == alone.token_ids
        assert best.logprobs == pytest.approx(alone.logprobs, abs=1e-5 if linear is Int8Linear else 0.02)
        [[exact]] = generate(decoder, grid[image : image + 1], [options], vocabulary)
        assert best.score == pytest.approx(exact.score, abs=0.1)

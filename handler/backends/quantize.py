"""Reduced-precision decoders: bfloat16 or int8 linear layers for CPUs, float16 weights for GPUs.

At each step a few rows are multiplied with all weights of the decoder, so reading the weights takes most of the time.
Narrower weights are fewer bytes. With quantized layers a caption can depend on its batch: a wider beam beside it
changes the last bits of float32 sums in attention, which rounding turns into a hundredth of a log-probability.
Quantized decoders are therefore not the default.
"""

import copy
import warnings
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from handler.modeling import Decoder
from handler.modeling.layers import BeamLSTMCell, TokenEmbedding

MIN_OUT_FEATURES = 8  # for narrower layers, quantizing the inputs takes longer than the product
# Inputs have 7 bits: with 8, sums of two products would overflow the 16 bits of CPUs without VNNI.
MAX_LEVEL = 63  # magnitude of a signed input
MAX_NONNEGATIVE_LEVEL = 127  # of an input that is never negative


class LinearFactory(Protocol):
    """Makes a layer that computes `input @ weight.T + bias` with reduced precision."""

    def __call__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, nonnegative_input: bool = False
    ) -> nn.Module:
        """Make the layer; `nonnegative_input` promises that no input is below 0."""


class Bf16Linear(nn.Module):
    """Linear layer in bfloat16 with float32 sums; the result is rounded to bfloat16.

    bfloat16 is half the bytes of float32 and has a third of the error of int8.

    Args:
        weight: (outputs, inputs); packed once into the layout of the oneDNN kernels.
        bias: (outputs,), or None.
        nonnegative_input: Unused; the argument of `Int8Linear`.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        nonnegative_input: bool = False,  # noqa: ARG002 -- part of LinearFactory
    ) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16(), None)
        self.bias = None if bias is None else bias.detach().bfloat16()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map (…, inputs) to (…, outputs), both float32."""
        outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs.bfloat16(), self.packed, self.bias, "none", [], ""
        )
        return outputs.float()


class Int8Linear(nn.Module):
    """Linear layer in int8, with one scale for each row of the weight and of the input.

    The scale of an input row depends on that row only, and sums of integers are exact in any order. The result of a row
    is therefore the same, to the bit, in any batch.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,), or None.
        nonnegative_input: Whether no input is below 0, e.g. after a ReLU; all levels are then used for values ≥ 0.
    """

    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, nonnegative_input: bool = False) -> None:
        super().__init__()
        weight = weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        zeros = torch.zeros(len(scale), dtype=torch.long)
        with warnings.catch_warnings():  # a later PyTorch replaces this constructor
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_channel", UserWarning)
            quantized = torch.quantize_per_channel(weight, scale, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(quantized, None)
        self.register_buffer("bias", torch.zeros(len(weight)) if bias is None else bias.detach().float())
        if nonnegative_input:
            self.scale, self.zero_point = 1 / MAX_NONNEGATIVE_LEVEL, 0
        else:
            self.scale, self.zero_point = 1 / MAX_LEVEL, MAX_LEVEL + 1

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map (…, inputs) to (…, outputs)."""
        largest = inputs.abs().amax(-1, keepdim=True).clamp_(min=1e-12)
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            inputs / largest, self.scale, self.zero_point, self.packed
        )
        return torch.addcmul(self.bias, product, largest)


class QuantizedLSTMCell(nn.Module):
    """`BeamLSTMCell` with one quantized layer for both products."""

    def __init__(self, cell: BeamLSTMCell, linear: LinearFactory) -> None:
        super().__init__()
        self.hidden_size = cell.hidden_size
        self.gates = linear(torch.cat([cell.weight_ih, cell.weight_hh], 1), cell.bias_ih + cell.bias_hh)

    def forward(
        self, inputs: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map inputs (B, K, input) and the state, two tensors (B, K, H), to the next state."""
        gates = self.gates(torch.cat([inputs, hidden], -1))
        input_gate, forget_gate, cell_input, output_gate = gates.chunk(4, -1)
        cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * cell_input.tanh()
        return output_gate.sigmoid() * cell.tanh(), cell


class QuantizedTokenEmbedding(nn.Module):
    """`TokenEmbedding` with a quantized output layer."""

    def __init__(self, embedding: TokenEmbedding, linear: LinearFactory) -> None:
        super().__init__()
        self.weight = embedding.weight
        self.output = linear(embedding.weight if embedding.tied else embedding.output_weight, embedding.output_bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens (…) to embeddings (…, E)."""
        return functional.embedding(tokens, self.weight)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens (…) to embeddings (…, E); there is no dropout in generation."""
        return self(tokens)  # type: ignore[no-any-return]  # nn.Module's call is untyped

    def dropout(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor: there is no dropout in generation."""
        return tensor

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (…, E) to logits (…, V)."""
        return self.output(features)  # type: ignore[no-any-return]  # nn.Module's call is untyped


def quantize_decoder(decoder: Decoder, linear: LinearFactory) -> Decoder:
    """Return a copy of a decoder for generation on a CPU, with layers made by `linear`."""
    decoder = copy.deepcopy(decoder).eval()
    _quantize_modules(decoder, linear)
    return decoder


def _quantize_modules(module: nn.Module, linear: LinearFactory, previous: nn.Module | None = None) -> None:
    """Replace the layers in `module`, which follows `previous` in a sequence."""
    for name, child in module.named_children():
        if isinstance(child, TokenEmbedding):
            setattr(module, name, QuantizedTokenEmbedding(child, linear))
        elif isinstance(child, BeamLSTMCell):
            setattr(module, name, QuantizedLSTMCell(child, linear))
        elif isinstance(child, nn.Linear) and child.out_features >= MIN_OUT_FEATURES:
            layer = linear(child.weight, child.bias, nonnegative_input=isinstance(previous, nn.ReLU))
            setattr(module, name, layer)
        else:
            _quantize_modules(child, linear, previous if isinstance(child, nn.Sequential) else None)
        previous = child if isinstance(module, nn.Sequential) else None


def to_half(decoder: Decoder) -> Decoder:
    """Return a copy of a decoder with float16 weights, for generation on a GPU under autocast.

    Autocast would convert float32 weights again at every step. Layer norms stay in float32, as autocast runs them.
    """
    decoder = copy.deepcopy(decoder).eval()
    for module in decoder.modules():
        if not isinstance(module, nn.LayerNorm):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.half()
    return decoder


def supports_bf16_linear() -> bool:
    """Return True if PyTorch has the kernels of `Bf16Linear` and the CPU has instructions for them."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # untyped in torch
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def supports_int8_linear() -> bool:
    """Return True if PyTorch has the kernels of `Int8Linear`, as x86 builds do."""
    return "fbgemm" in torch.backends.quantized.supported_engines

"""A decoder in 8-bit integers, for CPUs: a quarter of the bytes to read; products are the same to the bit in any batch.

A caption is not: a wider beam beside it changes the last bit of sums that are not of integers, in attention, and
rounding makes that a hundredth of a log-probability. That is why integers are not the default.
"""

import copy
import warnings

import torch
from torch import nn

from handler.decoders.base import Decoder, Recurrence, Words

# A hypothesis' step is a product of a few rows with all weights, so that its time is that of reading them. Inputs have
# 7 bits: with 8, pairs of products would overflow the 16 bits that processors without VNNI add them up in.
LEVELS = 63  # of a value's amount, beside its sign
POSITIVE_LEVELS = 127  # where no value is below 0
FEW = 8  # outputs; below that, bringing the inputs to integers takes longer than the product


class Int8Linear(nn.Module):
    """`input @ weight.T + bias` with integers: weights a scale each row, inputs a scale each row of theirs.

    An input's scale is its own row's, so that neighbours in a batch have no part in it; and sums of integers are exact,
    whatever order they are added up in. So a row's product does not depend on the batch, to the bit.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,), or None.
        positive: whether no input is below 0, as after a ReLU, which gives all levels to what is above.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, positive: bool = False):
        super().__init__()
        weight = weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        zeros = torch.zeros(len(scale), dtype=torch.long)
        with warnings.catch_warnings():  # that a later PyTorch will have another way to make such a tensor
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_channel", UserWarning)
            quantized = torch.quantize_per_channel(weight, scale, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(quantized, None)
        self.register_buffer("bias", torch.zeros(len(weight)) if bias is None else bias.detach().float())
        self.scale, self.zero = (1 / POSITIVE_LEVELS, 0) if positive else (1 / LEVELS, LEVELS + 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, inputs) → (…, outputs)."""
        largest = inputs.abs().amax(-1, keepdim=True).clamp_(min=1e-12)
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            inputs / largest, self.scale, self.zero, self.packed
        )
        return torch.addcmul(self.bias, product, largest)


class Int8Recurrence(nn.Module):
    """`Recurrence` with integers: both products in one."""

    def __init__(self, cell: Recurrence):
        super().__init__()
        self.hidden_size = cell.hidden_size
        weight = torch.cat([cell.weight_ih, cell.weight_hh], 1)
        self.gates = Int8Linear(weight, cell.bias_ih + cell.bias_hh)

    def forward(
        self, inputs: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (B, K, input) with the state's two tensors (B, K, H) → the next two."""
        gates = self.gates(torch.cat([inputs, hidden], -1))
        entering, forgetting, new, leaving = gates.chunk(4, -1)
        cell = forgetting.sigmoid() * cell + entering.sigmoid() * new.tanh()
        return leaving.sigmoid() * cell.tanh(), cell


class Int8Words(nn.Module):
    """`Words` with scores from integers."""

    def __init__(self, words: Words):
        super().__init__()
        self.embedding = words.embedding
        self.scores = Int8Linear(words.embedding.weight if words.tied else words.output, words.bias)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens)

    def dropout(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def score(self, features: torch.Tensor) -> torch.Tensor:
        return self.scores(features)


def can_quantize() -> bool:
    """Whether this PyTorch has the integer products, which x86 builds have."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def quantize(decoder: Decoder) -> Decoder:
    """A copy of a decoder for inference on a CPU, its matrices in integers."""
    decoder = copy.deepcopy(decoder).eval()
    _replace(decoder)
    return decoder


def _replace(module: nn.Module, before: nn.Module | None = None) -> None:
    """Puts integers' modules into `module`, which stands after `before` in a sequence."""
    for name, child in module.named_children():
        if isinstance(child, Words):
            setattr(module, name, Int8Words(child))
        elif isinstance(child, Recurrence):
            setattr(module, name, Int8Recurrence(child))
        elif isinstance(child, nn.Linear) and child.out_features >= FEW:
            setattr(module, name, Int8Linear(child.weight, child.bias, positive=isinstance(before, nn.ReLU)))
        else:
            _replace(child, before if isinstance(child, nn.Sequential) else None)
        before = child if isinstance(module, nn.Sequential) else None

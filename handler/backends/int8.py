"""Matrices of 8-bit integers, for CPUs: a quarter of the bytes to read; a product is the same in any batch."""

import warnings

import torch
from torch import nn

# A hypothesis' step is a product of a few rows with all weights, so that its time is that of reading them. Inputs have
# 7 bits: with 8, pairs of products would overflow the 16 bits that processors without VNNI add them up in.
LEVELS = 63  # of a value's amount, beside its sign
POSITIVE_LEVELS = 127  # where no value is below 0


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


def can_quantize() -> bool:
    """Whether this PyTorch has the integer products, which x86 builds have."""
    return "fbgemm" in torch.backends.quantized.supported_engines

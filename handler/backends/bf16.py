"""Matrices of bfloat16, for CPUs that multiply them: half of the bytes to read, and a third of the integers' error."""

import torch
from torch import nn


class Bf16Linear(nn.Module):
    """`input @ weight.T + bias` in bfloat16, summed in single precision; what comes out is rounded to bfloat16.

    Args:
        weight: (outputs, inputs); it is laid out as oneDNN's kernels read it, once, not at each call.
        bias: (outputs,), or None.
        positive: of no use here; see `Int8Linear`.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, positive: bool = False):
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16(), None)
        self.bias = None if bias is None else bias.detach().bfloat16()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, inputs) → (…, outputs), both single precision."""
        return torch.ops.mkldnn._linear_pointwise(inputs.bfloat16(), self.packed, self.bias, "none", [], "").float()


def can_halve() -> bool:
    """Whether this PyTorch has such products, and this processor instructions that they can be made of."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()

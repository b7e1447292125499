"""A decoder for CPUs whose matrices are rounded, to bfloat16 or to integers: fewer bytes to read, faster products.

A caption can then depend on its batch: a wider beam beside it changes the last bit of sums in single precision, in
attention, and rounding makes that a hundredth of a log-probability. That is why it is not the default.
"""

import copy
from typing import Protocol

import torch
from torch import nn

from handler.modeling.decoder import Decoder
from handler.modeling.layers import BeamLSTMCell, TokenEmbedding

FEW = 8  # outputs; below that, rounding the inputs takes longer than the product


class Rounded(Protocol):
    """Makes a layer, `input @ weight.T + bias`, of rounded numbers; `positive` says that no input is below 0."""

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, positive: bool = False) -> nn.Module: ...


class QuantizedLSTMCell(nn.Module):
    """`BeamLSTMCell` with both products in one."""

    def __init__(self, cell: BeamLSTMCell, linear: Rounded):
        super().__init__()
        self.hidden_size = cell.hidden_size
        self.gates = linear(torch.cat([cell.weight_ih, cell.weight_hh], 1), cell.bias_ih + cell.bias_hh)

    def forward(
        self, inputs: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (B, K, input) with the state's two tensors (B, K, H) → the next two."""
        gates = self.gates(torch.cat([inputs, hidden], -1))
        entering, forgetting, new, leaving = gates.chunk(4, -1)
        cell = forgetting.sigmoid() * cell + entering.sigmoid() * new.tanh()
        return leaving.sigmoid() * cell.tanh(), cell


class QuantizedTokenEmbedding(nn.Module):
    """`TokenEmbedding` with a rounded output layer."""

    def __init__(self, embedding: TokenEmbedding, linear: Rounded):
        super().__init__()
        self.weight = embedding.weight
        self.output = linear(embedding.weight if embedding.tied else embedding.output_weight, embedding.output_bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(tokens, self.weight)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self(tokens)

    def dropout(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        return self.output(features)


def quantize_decoder(decoder: Decoder, linear: Rounded) -> Decoder:
    """A copy of a decoder for inference, its matrices rounded by `linear`."""
    decoder = copy.deepcopy(decoder).eval()
    _replace(decoder, linear)
    return decoder


def _replace(module: nn.Module, linear: Rounded, before: nn.Module | None = None) -> None:
    """Puts rounded modules into `module`, which stands after `before` in a sequence."""
    for name, child in module.named_children():
        if isinstance(child, TokenEmbedding):
            setattr(module, name, QuantizedTokenEmbedding(child, linear))
        elif isinstance(child, BeamLSTMCell):
            setattr(module, name, QuantizedLSTMCell(child, linear))
        elif isinstance(child, nn.Linear) and child.out_features >= FEW:
            setattr(module, name, linear(child.weight, child.bias, positive=isinstance(before, nn.ReLU)))
        else:
            _replace(child, linear, before if isinstance(child, nn.Sequential) else None)
        before = child if isinstance(module, nn.Sequential) else None

"""An encoder cut in two before a stage: what is frozen below, whose output is cached, and what is trained above.

Both are the encoder itself, with the same parameters, in which the other part's modules let everything pass.
"""

import copy

import torch
from torch import nn

from handler.modeling.encoder import Encoder
from handler.modeling.layers import grid_shape


def below(encoder: Encoder, stage: str) -> Encoder:
    """The part below a stage: normalised pixels (B, 3, H, W) → what the stage is given, (B, cells, channels)."""
    return _without(encoder, stage, before=False)


def above(encoder: Encoder, stage: str, features: torch.Tensor) -> torch.Tensor:
    """What `below` gives, (B, cells, channels) → the encoder's grid (B, cells, C)."""
    rows, columns = grid_shape(features.shape[1])
    return _without(encoder, stage, before=True)(features.transpose(1, 2).unflatten(2, (rows, columns)))


def check_split(encoder: Encoder, stage: str, size: int) -> None:
    """Sees that both parts in turn give what the whole does, for pictures of `size` pixels a side.

    Raises:
        ValueError: they do not: the stages are not passed one after another, or more is done between them.
    """
    device = next(encoder.parameters()).device
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        whole = encoder(pixels)
        try:
            same = torch.allclose(above(encoder, stage, below(encoder, stage)(pixels)), whole, rtol=1e-3, atol=1e-3)
        except (
            AttributeError,
            IndexError,
            RuntimeError,
            TypeError,
            ValueError,
        ):  # whatever a backbone then stumbles at
            same = False
    if not same:
        raise ValueError(f"{encoder.name} can't be cut at '{stage}' to keep what lies below: set cached_views to 0.")


def _without(encoder: Encoder, stage: str, *, before: bool) -> Encoder:
    """The encoder, sharing all parameters, without the modules before the stage, or without it and those after it."""
    part = _shallow(encoder)
    module = part.backbone = _shallow(encoder.backbone)
    names = stage.split(".")
    for depth, name in enumerate(names):
        children = list(module.named_children())
        place = [child for child, _ in children].index(name)
        last = depth == len(names) - 1
        others = children[:place] if before else children[place + (0 if last else 1) :]
        for child, _ in others:
            module._modules[child] = nn.Identity()
        if not last:
            module._modules[name] = module = _shallow(module._modules[name])
    return part


def _shallow(module: nn.Module) -> nn.Module:
    """A module with the same parameters and children, in which children can be replaced."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin

"""The trained model: a frozen or partly fine-tuned encoder and a decoder.

An encoder can be split before a stage: the frozen part, whose output is cached, and the trainable part. Both share the
parameters of the encoder; the modules of the other part are replaced by `nn.Identity`.
"""

import copy
from types import MethodType
from typing import TypeVar

import torch
from torch import nn

from handler.modeling import Decoder, TeacherForcingOutput
from handler.modeling.encoder import Encoder
from handler.modeling.layers import grid_shape
from handler.preprocessing import Preprocessing

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class CaptionModel(nn.Module):
    """Encoder and decoder: maps images and captions to the logits of each next token.

    Batch normalization keeps its pretrained statistics, because the few images of a step would distort them.

    Args:
        encoder: Encoder with pretrained weights.
        decoder: Decoder to train.
        preprocessing: Normalizes pixels.
        unfreeze_from: First stage of the backbone to fine-tune; None: the encoder is frozen.

    Raises:
        ValueError: If the backbone has no such stage.
    """

    def __init__(
        self, encoder: Encoder, decoder: Decoder, preprocessing: Preprocessing, unfreeze_from: str | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder.eval().requires_grad_(False), decoder
        self.preprocessing, self.unfreeze_from = preprocessing, unfreeze_from
        if unfreeze_from:
            self._unfreeze(unfreeze_from)

    def _unfreeze(self, stage: str) -> None:
        backbone = self.encoder.backbone
        names = [name for name, _ in backbone.named_parameters()]  # in forward order
        first = next((i for i, name in enumerate(names) if name.startswith(f"{stage}.")), None)
        if first is None:
            stages = ", ".join(dict.fromkeys(name.rsplit(".", 2)[0] for name in names))
            raise ValueError(f"{self.encoder.name} has no stage '{stage}': choose one of {stages}.")
        for index, parameter in enumerate(backbone.parameters()):
            parameter.requires_grad_(index >= first)
        for parameter in self._unused_parameters():
            parameter.requires_grad_(False)
        for layer in backbone.modules():
            if isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.weight.requires_grad:
                # A method and not a function, so that a copy of the layer uses the weights of the copy.
                layer.forward = MethodType(forward_float32, layer)  # type: ignore[method-assign]

    def _unused_parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters that do not influence the grid, e.g. those of a classifier.

        They would get no gradient, and DDP would wait for it.
        """
        parameters = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        size = self.preprocessing.size
        grid = self.encoder(torch.zeros(1, 3, size, size, device=parameters[0].device))
        gradients = torch.autograd.grad(grid.sum(), parameters, allow_unused=True)
        return [parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is None]

    def train(self, mode: bool = True) -> "CaptionModel":
        """Set the mode of the decoder; the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images to grids (B, cells, C).

        Args:
            images: uint8 pixels (B, 3, size, size), or cached features (B, cells, channels): of the frozen encoder, or
                of its frozen part if the encoder is fine-tuned.
        """
        if images.dtype == torch.uint8:
            grid: torch.Tensor = self.encoder(self.preprocessing.normalize(images))
            return grid
        if self.unfreeze_from:
            return trainable_part(self.encoder, self.unfreeze_from, images.float())
        return images.float()

    def forward(self, images: torch.Tensor, tokens: torch.Tensor) -> TeacherForcingOutput:
        """Run teacher forcing; arguments: images as in `encode`, tokens (B, K, T) from `<start>` on."""
        output: TeacherForcingOutput = self.decoder(self.encode(images), tokens)
        return output

    def trainable_parameters(self) -> dict[str, torch.Tensor]:
        """Return the parameters with a gradient, by name. The frozen ones are not saved in checkpoints."""
        return {name: tensor for name, tensor in self.named_parameters() if tensor.requires_grad}


def forward_float32(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Run a layer in float32 on CPU, where the bfloat16 gradient of a grouped convolution takes four times as long."""
    forward = type(layer).forward
    if inputs.device.type != "cpu":
        output: torch.Tensor = forward(layer, inputs)
        return output
    with torch.autocast("cpu", enabled=False):
        output = forward(layer, inputs.float())
        return output


def check_size(encoder: Encoder, size: int) -> None:
    """Check that an encoder in evaluation mode accepts images of `size` pixels a side.

    Raises:
        ValueError: If it does not, e.g. a ViT with learned positions.
    """
    device = next(encoder.parameters()).device
    try:
        with torch.inference_mode():
            encoder(torch.zeros(1, 3, size, size, device=device))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"{encoder.name} does not accept images of {size} pixels a side: {error}") from error


def frozen_part(encoder: Encoder, stage: str) -> Encoder:
    """Return the part before a stage: normalized pixels (B, 3, H, W) to the input of the stage (B, cells, channels)."""
    return _drop_children(encoder, stage, before=False)


def trainable_part(encoder: Encoder, stage: str, features: torch.Tensor) -> torch.Tensor:
    """Run the part from a stage on: output of `frozen_part` (B, cells, channels) to the grid (B, cells, C)."""
    rows, columns = grid_shape(features.shape[1])
    part = _drop_children(encoder, stage, before=True)
    grid: torch.Tensor = part(features.transpose(1, 2).reshape(len(features), -1, rows, columns))
    return grid


def check_split(encoder: Encoder, stage: str, size: int) -> None:
    """Check that the two parts in sequence equal the whole encoder, for images of `size` pixels a side.

    Raises:
        ValueError: If they differ, because the encoder does more than run its stages in sequence.
    """
    device = next(encoder.parameters()).device
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        expected = encoder(pixels)
        try:
            actual = trainable_part(encoder, stage, frozen_part(encoder, stage)(pixels))
            same = torch.allclose(actual, expected, rtol=1e-3, atol=1e-3)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # depends on the backbone
            same = False
    if not same:
        raise ValueError(
            f"{encoder.name} cannot be split at '{stage}' to cache the features below: set num_cached_views to 0."
        )


def _drop_children(encoder: Encoder, stage: str, *, before: bool) -> Encoder:
    """Copy the encoder without the modules before the stage, or without the stage and those after it."""
    part = _shallow_copy(encoder)
    module = part.backbone = _shallow_copy(encoder.backbone)
    names = stage.split(".")
    for depth, name in enumerate(names):
        children = [child for child, _ in module.named_children()]
        index = children.index(name)
        last = depth == len(names) - 1
        for child in children[:index] if before else children[index + (0 if last else 1) :]:
            module._modules[child] = nn.Identity()
        if not last:
            copied = _shallow_copy(module.get_submodule(name))
            module._modules[name] = copied
            module = copied
    return part


def _shallow_copy(module: ModuleT) -> ModuleT:
    """Copy a module with the same parameters and children, so that its children can be replaced."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin

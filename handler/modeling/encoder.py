"""An encoder: a picture's pixels → its feature grid. Any timm backbone that gives a grid serves, by name."""

import timm
import torch
from torch import nn

from handler.preprocessing import Preprocessing


class Encoder(nn.Module):
    """A timm backbone without its classifier, pretrained weights loaded by whoever builds it.

    Args:
        name: a timm model, such as `resnet101` or `tf_efficientnet_lite2`.

    Raises:
        ValueError: timm has no such model.
    """

    def __init__(self, name: str):
        super().__init__()
        if not timm.is_model(name):
            raise ValueError(f"timm has no model named '{name}': see timm.list_models().")
        self.name = name
        backbone = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
        self.backbone = backbone.to(memory_format=torch.channels_last)  # 1.7 times as fast on a CPU

    @property
    def channels(self) -> int:
        """Channels of a cell."""
        return self.backbone.num_features

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (B, 3, H, W) → the grid (B, cells, channels), cells row by row."""
        features = self.backbone.forward_features(pixels.contiguous(memory_format=torch.channels_last))
        if features.ndim == 4:
            # timm's Swin and its kin put channels last, convolutional backbones put them second.
            if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
                return features.flatten(1, 2)
            return features.flatten(2).transpose(1, 2)
        return features[:, self.backbone.num_prefix_tokens :]  # a ViT's class token has no place in the grid


class NormalizedEncoder(nn.Module):
    """Normalisation and encoder as one, for those that compile it.

    Args:
        encoder: with its weights.
        preprocessing: normalises pixels.
    """

    def __init__(self, encoder: Encoder, preprocessing: Preprocessing):
        super().__init__()
        self.encoder, self.preprocessing = encoder, preprocessing

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 pixels (B, 3, size, size) → grid (B, cells, C)."""
        return self.encoder(self.preprocessing.normalize(pixels))

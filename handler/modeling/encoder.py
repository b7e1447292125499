"""Encoder: pixels of an image → feature grid. Any timm backbone with a feature grid works, by name."""

from typing import Any

import timm
import torch
from torch import nn

from handler.preprocessing import Preprocessing


class Encoder(nn.Module):
    """A timm backbone without its classifier, randomly initialized.

    Args:
        name: timm model, e.g. `resnet101` or `tf_efficientnet_lite2`.

    Raises:
        ValueError: If timm has no such model.
    """

    backbone: Any  # the attributes of a backbone depend on its architecture

    def __init__(self, name: str) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise ValueError(f"Unknown timm model '{name}'. List the valid ones with timm.list_models().")
        self.name = name
        backbone = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
        self.backbone = backbone.to(memory_format=torch.channels_last)  # 1.7 times as fast on a CPU

    @property
    def channels(self) -> int:
        """Channels C of a grid cell."""
        return int(self.backbone.num_features)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode normalized pixels (B, 3, H, W) to a grid (B, cells, C), cells row by row."""
        features: torch.Tensor = self.backbone.forward_features(pixels.contiguous(memory_format=torch.channels_last))
        if features.ndim == 4:
            # Swin and similar backbones put channels last, convolutional ones second.
            if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
                return features.flatten(1, 2)
            return features.flatten(2).transpose(1, 2)
        return features[:, self.backbone.num_prefix_tokens :]  # the class token of a ViT is no grid cell


class NormalizedEncoder(nn.Module):
    """Normalization and encoder in one module, which can be compiled as a whole.

    Args:
        encoder: Encoder with its weights.
        preprocessing: Normalizes pixels.
    """

    def __init__(self, encoder: Encoder, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.encoder, self.preprocessing = encoder, preprocessing

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode uint8 pixels (B, 3, size, size) to a grid (B, cells, C)."""
        grid: torch.Tensor = self.encoder(self.preprocessing.normalize(pixels))
        return grid

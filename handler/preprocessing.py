"""Preprocessing of RGB images into encoder input, shared by training and serving."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

# Part of the key of cached features: features of images that were resized in another way are not reused.
RESIZE_VERSION = "bicubic, antialiased, PyTorch's"


@dataclass(frozen=True)
class Preprocessing:
    """Encoder input: size and normalization.

    An image is squeezed to a square without keeping its aspect ratio: all of it stays visible, and a grid cell always
    maps to the same share of the image.

    Attributes:
        size: Side of the square, in pixels.
        mean: Mean of each channel, on the scale 0–255.
        std: Standard deviation of each channel, on the scale 0–255.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.size < 1 or min(self.std) <= 0:
            raise ValueError(f"size must be at least 1 and std above 0, not {self.size} and {self.std}.")

    @property
    def min_decode_side(self) -> int:
        """Minimum side to decode an image to, in pixels: twice `size`, so scaled decoding has no visible effect."""
        return 2 * self.size

    def resize(self, image: Image.Image) -> torch.Tensor:
        """Resize an RGB image to uint8 pixels (3, size, size), bicubic with antialiasing.

        PyTorch needs less than half of Pillow's time, but copies the pixels. A side of more than twice
        `min_decode_side` is therefore first reduced by an integer factor, which keeps the copy small.
        """
        factor_x, factor_y = (max(1, side // self.min_decode_side) for side in image.size)
        image = image.reduce((factor_x, factor_y)) if max(factor_x, factor_y) > 1 else image
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
        size = (self.size, self.size)
        return functional.interpolate(pixels, size, mode="bicubic", antialias=True).squeeze(0)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalize uint8 pixels (B, 3, size, size) to `(pixels - mean) / std`, float32 of the same shape."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return (pixels.float() - mean) / std

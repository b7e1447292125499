"""An RGB picture → the pixels an encoder takes. Training and serving share it, so they can't drift apart."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

RESIZE_VERSION = "bicubic, antialiased, PyTorch's"  # of cached grids: those of pictures resized otherwise are not read


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes an encoder's input.

    The picture is squeezed to a square, its aspect not kept: every part of it stays in view, and a
    grid's cell maps to the same share of the picture always.

    Attributes:
        size: side of the square, in pixels.
        mean: per channel, in units of 0–255.
        std: per channel, in units of 0–255.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self):
        if self.size < 1 or min(self.std) <= 0:
            raise ValueError(f"size is at least 1 and std above 0, not {self.size} and {self.std}.")

    @property
    def enough(self) -> int:
        """Pixels that a picture's sides need to have: twice as many as the encoder takes, so that nothing is seen of
        how it was decoded.
        """
        return 2 * self.size

    def resize(self, image: Image.Image) -> torch.Tensor:
        """RGB picture → uint8 pixels (3, size, size), bicubic with antialiasing.

        PyTorch's way of it takes less than half of Pillow's time, and is a copy of the pixels: a side that has more
        than twice what is enough is shortened by a whole number first, so that the copy is small.
        """
        factors = tuple(max(1, side // self.enough) for side in image.size)
        image = image.reduce(factors) if max(factors) > 1 else image
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
        size = (self.size, self.size)
        return functional.interpolate(pixels, size, mode="bicubic", antialias=True).squeeze(0)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 pixels (B, 3, size, size) → `(pixels - mean) / std` as float32, same shape."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return (pixels.float() - mean) / std

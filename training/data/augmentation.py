"""Random augmentation of training images: horizontal flip and crop."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from eval.data import CaptionedImage
from handler.modeling.vocabulary import tokenize

DIRECTIONAL_WORDS = {"left", "right"}


@dataclass(frozen=True)
class Augmentation:
    """Settings of the random views of an image.

    Attributes:
        horizontal_flip: Flip with probability 0.5, unless a caption of the image mentions left or right.
        min_crop_area: Minimum share of the image area that a random crop keeps, in (0, 1]; 1 never crops.
    """

    horizontal_flip: bool = True
    min_crop_area: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.min_crop_area <= 1:
            raise ValueError(f"min_crop_area must be above 0 and at most 1, not {self.min_crop_area}.")

    def apply(self, image: Image.Image, captioned: CaptionedImage, rng: np.random.Generator) -> Image.Image:
        """Return a random view of an RGB image.

        Args:
            image: The decoded image.
            captioned: Its captions, which have to stay true.
            rng: Source of all randomness.
        """
        if self.min_crop_area < 1:
            image = image.crop(self._sample_box(*image.size, rng))
        if rng.random() < 0.5 and self.horizontal_flip and not mentions_direction(captioned):
            image = ImageOps.mirror(image)
        return image

    def _sample_box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Sample a crop of at least `min_crop_area`, its aspect ratio 3:4 to 4:3 of that of the image."""
        area, stretch = rng.uniform(self.min_crop_area, 1), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)) / 2)
        crop_width, crop_height = (
            max(1, round(side * min(1, share)))
            for side, share in ((width, math.sqrt(area) * stretch), (height, math.sqrt(area) / stretch))
        )
        left, top = int(rng.integers(width - crop_width + 1)), int(rng.integers(height - crop_height + 1))
        return left, top, left + crop_width, top + crop_height


def mentions_direction(image: CaptionedImage) -> bool:
    """Return True if a caption mentions left or right, which a flip would make wrong."""
    return any(DIRECTIONAL_WORDS & set(tokenize(caption)) for caption in image.captions)

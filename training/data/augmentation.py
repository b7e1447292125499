"""Random views of a picture, so that a small training split goes further: mirrored, and cropped."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from eval.coco import CaptionedImage
from handler.modeling.vocabulary import tokenize

SIDED = {"left", "right"}


@dataclass(frozen=True)
class Augmentation:
    """How training varies a picture.

    Attributes:
        mirror: half of the views are mirrored, but those of pictures whose captions say "left" or "right".
        min_area: least share of the picture that a random crop keeps, above 0 to 1; 1 never crops.
    """

    mirror: bool = True
    min_area: float = 1.0

    def __post_init__(self):
        if not 0 < self.min_area <= 1:
            raise ValueError(f"min_area is above 0 and at most 1, not {self.min_area}.")

    def view(self, picture: Image.Image, image: CaptionedImage, draw: np.random.Generator) -> Image.Image:
        """A random view of an RGB picture; `image` says which captions have to stay true of it."""
        if self.min_area < 1:
            picture = picture.crop(self._box(*picture.size, draw))
        if draw.random() < 0.5 and self.mirror and not mentions_direction(image):
            picture = ImageOps.mirror(picture)
        return picture

    def _box(self, width: int, height: int, draw: np.random.Generator) -> tuple[int, int, int, int]:
        """A rectangle of at least `min_area`, its sides' proportion to the picture's from 3:4 to 4:3."""
        area, stretch = draw.uniform(self.min_area, 1), math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)) / 2)
        wide, high = (
            max(1, round(side * min(1, part)))
            for side, part in ((width, math.sqrt(area) * stretch), (height, math.sqrt(area) / stretch))
        )
        left, top = int(draw.integers(width - wide + 1)), int(draw.integers(height - high + 1))
        return left, top, left + wide, top + high


def mentions_direction(image: CaptionedImage) -> bool:
    """Whether a caption speaks of left or right: in the mirror it would be wrong."""
    return any(SIDED & set(tokenize(caption)) for caption in image.captions)

"""Load image files as uint8 pixels, optionally augmented."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from eval.data import CaptionedImage
from handler.errors import RequestError
from handler.image import decode_image
from handler.parallel import parallel_map
from handler.preprocessing import Preprocessing
from training.data.augmentation import Augmentation


def load_images(
    images: Sequence[CaptionedImage],
    preprocessing: Preprocessing,
    augmentation: Augmentation | None = None,
    seed: Sequence[int] = (),
) -> torch.Tensor:
    """Load images in parallel threads as uint8 pixels (B, 3, size, size); arguments as for `load_image`."""
    return torch.stack(parallel_map(lambda image: load_image(image, preprocessing, augmentation, seed), images))


def load_image(
    image: CaptionedImage,
    preprocessing: Preprocessing,
    augmentation: Augmentation | None = None,
    seed: Sequence[int] = (),
) -> torch.Tensor:
    """Load an image as uint8 pixels (3, size, size).

    Args:
        image: The image file and its captions.
        preprocessing: Resizes the image.
        augmentation: Random augmentation; None loads the image unchanged.
        seed: Integers ≥ 0 that, together with the content of the file, determine the augmentation.

    Raises:
        ValueError: If the file cannot be decoded; the message names it.
    """
    data = image.path.read_bytes()
    try:
        decoded = decode_image(data)
    except RequestError as error:
        raise ValueError(f"{image.path}: {error}") from error
    if augmentation:
        digest = int.from_bytes(hashlib.sha256(data).digest()[:8])
        decoded = augmentation.apply(decoded, image, np.random.default_rng([*seed, digest]))
    return preprocessing.resize(decoded)

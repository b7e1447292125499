"""Random crops and flips."""

import numpy as np
from PIL import Image

from eval.data import CaptionedImage
from training.data.augmentation import Augmentation


def test_augmentation_crops_keep_min_area_and_stay_inside():
    rng, sizes = np.random.default_rng(0), []
    for _ in range(300):
        left, top, right, bottom = Augmentation(min_crop_area=0.5)._sample_box(400, 200, rng)
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 200
        sizes.append((right - left) * (bottom - top) / 80_000)
    assert 0.42 < min(sizes) < 0.52  # a stretched side is cut at the border, so the area can be a little smaller
    assert max(sizes) > 0.95


def test_augmentation_flips_only_images_without_directional_words():
    rng = np.random.default_rng(0)
    gradient = Image.linear_gradient("L").rotate(90).convert("RGB")  # dark on one side
    for caption, views in (("a dog on the left", 1), ("a dog that leaves", 2)):
        image = CaptionedImage(1, None, (caption,))
        assert len({np.array(Augmentation().apply(gradient, image, rng)).tobytes() for _ in range(20)}) == views

"""Resizing: close to Pillow's result, without a copy of a large image."""

import io
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from handler.image import decode_image
from handler.preprocessing import Preprocessing
from tests.helpers.paths import ROOT


def test_scaled_decoding_hardly_changes_the_pixels():
    """The encoder input differs by less than one level of 256 in the mean."""
    photo = Image.open(ROOT / "samples" / "photos" / "palace.jpg").resize((2560, 1920), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=90)
    data, preprocessing = buffer.getvalue(), Preprocessing(260, (127,) * 3, (128,) * 3)
    small = decode_image(data, min_side=preprocessing.min_decode_side)
    assert small.size == (1280, 960)
    left, right = (preprocessing.resize(image).int() for image in (small, decode_image(data)))
    assert (left - right).abs().float().mean() < 1


@pytest.mark.parametrize("size", [(640, 426), (333, 500), (100, 2000), (32, 16)])
def test_resize_is_close_to_pillow(size):
    photo = Image.open(ROOT / "samples" / "photos" / "flower.jpg").resize(size, Image.Resampling.BICUBIC)
    pixels = Preprocessing(260, (127,) * 3, (128,) * 3).resize(photo)
    assert (pixels.shape, pixels.dtype, pixels.is_contiguous()) == ((3, 260, 260), torch.uint8, True)
    expected = torch.from_numpy(np.array(photo.resize((260, 260), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    assert (pixels.int() - expected.int()).abs().float().mean() < (1 if max(size) > 1000 else 0.25)  # of 256 levels


def test_resize_does_not_copy_a_large_image():
    """The image has 12,000,000 pixels, with black and white rows in turn."""
    rows = np.zeros((4000, 3000, 3), np.uint8)
    rows[1::2] = 255
    photo, preprocessing = Image.fromarray(rows), Preprocessing(100, (127,) * 3, (128,) * 3)
    tracemalloc.start()
    try:
        pixels = preprocessing.resize(photo)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000  # twice 200 × 200 pixels of three bytes, and the overhead of Python
    assert set(pixels.unique().tolist()) <= {127, 128}

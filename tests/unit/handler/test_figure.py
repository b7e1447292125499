"""Figures of attributions: layout, size, and what the heatmap covers."""

import math

import pytest
import torch
from PIL import Image

from handler.captioner import Caption
from handler.figure import COLUMNS, MARGIN, PANEL, draw_figure, overlay_heatmap, to_png


def test_overlay_heatmap_covers_cells_without_weight():
    image = Image.new("RGB", (90, 60), (250, 10, 10))
    weights = torch.zeros(3, 3)
    weights[0, 2] = 0.8
    weights[1, 1] = 0.4
    shaded = overlay_heatmap(image, weights)
    assert shaded.getpixel((88, 2)) == (250, 10, 10)
    red, green, blue = shaded.getpixel((5, 55))
    assert max(red, green, blue) - min(red, green, blue) < 12  # grey
    half = shaded.getpixel((45, 30))
    assert 100 < half[0] - half[1] < 200


def test_draw_figure_has_a_panel_for_the_image_and_each_word():
    tokens = ["a", "dog", "in", "deep", "snow"]
    caption = Caption(" ".join(tokens), 0.0, tokens, [0.0] * 6, torch.full((5, 3, 3), 1 / 9))
    figure = draw_figure(Image.new("RGB", (400, 200), "blue"), caption)
    assert figure.width == COLUMNS * (PANEL + MARGIN) + MARGIN
    rows = math.ceil(6 / COLUMNS)
    assert (figure.height - MARGIN) % rows == 0
    assert figure.getpixel((MARGIN + 5, MARGIN + 5)) == (0, 0, 255)
    below = [figure.getpixel((MARGIN + x, MARGIN + PANEL // 2 + 12)) for x in range(PANEL)]
    assert set(below) == {(255, 255, 255)}  # the image has no word
    title = [figure.getpixel((2 * MARGIN + PANEL + x, MARGIN + PANEL // 2 + 12)) for x in range(PANEL)]
    assert len(set(title)) > 1


def test_largest_figure_fits_into_a_response():
    """Noise, which does not compress, under fifty tokens, in base64: TorchServe allows 6.5 MB."""
    noise = Image.effect_noise((240, 480), 90).convert("RGB")
    caption = Caption("", 0.0, ["a"] * 50, [0.0] * 51, torch.full((50, 3, 3), 1 / 9))
    assert len(to_png(draw_figure(noise, caption))) * 4 / 3 < 6_000_000


@pytest.mark.parametrize("size", [(1, 480), (480, 1), (1, 1), (3, 20_000)])
def test_figure_stays_small_for_any_image(size):
    caption = Caption("", 0.0, ["a"] * 50, [0.0] * 51, torch.full((50, 3, 3), 1 / 9))
    figure = draw_figure(Image.new("RGB", size, "blue"), caption)
    assert figure.width * figure.height < 1_500_000

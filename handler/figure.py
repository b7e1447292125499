"""Figures of attributions: one panel for each word, as in Show, Attend and Tell (Xu et al. 2015, fig. 2)."""

import math
from io import BytesIO

import torch
from PIL import Image, ImageDraw, ImageFont

from handler.captioner import Caption
from handler.image import decode_image

PANEL = 224  # pixels, width of a panel; less if there are many
MAX_ASPECT_RATIO = 2  # height / width of a panel; an image of one column would make a figure of gigabytes
MAX_FIGURE_PIXELS = 1_200_000  # pixels, roughly: its base64 has to fit into a response of TorchServe, 6.5 MB
COLUMNS = 5
MARGIN = 12  # pixels
TITLE = 24  # pixels below each panel, for its word
OVERLAY_COLOR = (112, 114, 120)
MIN_VISIBILITY = 0.25  # of cells without any weight, from 0 to 1


def overlay_heatmap(image: Image.Image, weights: torch.Tensor) -> Image.Image:
    """Cover an image where weights are low. The cover is grey: darkening would hide what is dark itself.

    Args:
        image: RGB.
        weights: (rows, columns) over the whole image; the cell with the largest weight stays uncovered.
    """
    visibility = weights.float() / weights.max().clamp(min=1e-12)
    mask = Image.fromarray((255 * visibility).round().byte().cpu().numpy(), "L")
    mask = mask.resize(image.size, Image.Resampling.BICUBIC)
    grey = image.convert("L").convert("RGB")
    covered = Image.blend(Image.new("RGB", image.size, OVERLAY_COLOR), grey, MIN_VISIBILITY)
    return Image.composite(image, covered, mask)


def draw_figure(image: Image.Image | bytes, caption: Caption) -> Image.Image:
    """Draw the image, and beside it a panel for each word of a caption.

    Args:
        image: Upright RGB of any size, or the bytes of an image file.
        caption: A caption with attributions.

    Raises:
        ValueError: If the caption has no attributions.
        RequestError: If the bytes cannot be decoded.
    """
    if caption.attributions is None:
        raise ValueError("The caption has no attributions.")
    if isinstance(image, bytes):
        image = decode_image(image)
    columns = min(COLUMNS, 1 + len(caption.tokens))
    rows = math.ceil((1 + len(caption.tokens)) / columns)
    aspect_ratio = min(image.height / image.width, MAX_ASPECT_RATIO)
    area = columns * (PANEL + MARGIN) * rows * (PANEL * aspect_ratio + TITLE + MARGIN)
    side = int(PANEL * min(1, math.sqrt(MAX_FIGURE_PIXELS / area)))  # width of a panel
    scale = min(side / image.width, side * MAX_ASPECT_RATIO / image.height)
    width, height = (max(1, round(length * scale)) for length in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    heatmaps = [overlay_heatmap(small, weights) for weights in caption.attributions]
    panels = zip(["", *caption.tokens], [small, *heatmaps], strict=True)
    cell_width, cell_height = side + MARGIN, height + TITLE + MARGIN
    figure = Image.new("RGB", (columns * cell_width + MARGIN, rows * cell_height + MARGIN), "white")
    pen, font = ImageDraw.Draw(figure), ImageFont.load_default(16)
    for index, (token, panel) in enumerate(panels):
        left, top = MARGIN + index % columns * cell_width, MARGIN + index // columns * cell_height
        figure.paste(panel, (left + (side - width) // 2, top))
        pen.text((left + side // 2, top + height + TITLE // 2), token, fill="black", font=font, anchor="mm")
    return figure


def to_png(image: Image.Image) -> bytes:
    """Encode an image as a PNG file."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()

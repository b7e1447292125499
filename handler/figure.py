"""Draws where a model looked: the figure of Show, Attend and Tell (Xu et al. 2015, fig. 2), one panel a word."""

import math
from io import BytesIO

import torch
from PIL import Image, ImageDraw, ImageFont

from handler.captioner import Caption
from handler.image import decode_image

PANEL = 224  # pixels, a panel's width; less where there are many
TALLEST = 2  # times its width: a picture of one column would make a figure of gigabytes
MOST = 1_200_000  # pixels of a figure, about: in base64 it has to fit into TorchServe's answers, 6.5 MB
COLUMNS = 5
MARGIN = 12
TITLE = 24  # pixels below each panel for its word
FOG = (112, 114, 120)
CLEAR = 0.25  # share of a cell without any weight that shows through the fog


def shade(picture: Image.Image, weights: torch.Tensor) -> Image.Image:
    """A picture with what was not looked at in a fog; darkness would hide what is dark itself.

    Args:
        picture: RGB.
        weights: (rows, columns) over the whole picture; the heaviest cell is all clear.
    """
    clear = weights.float() / weights.max().clamp(min=1e-12)
    mask = Image.fromarray((255 * clear).round().byte().cpu().numpy(), "L").resize(
        picture.size, Image.Resampling.BICUBIC
    )
    fog = Image.new("RGB", picture.size, FOG)
    return Image.composite(picture, Image.blend(fog, picture.convert("L").convert("RGB"), CLEAR), mask)


def draw_figure(picture: Image.Image | bytes, caption: Caption) -> Image.Image:
    """The picture, and beside it a panel for each word of a caption that was explained.

    Args:
        picture: of any size and aspect: upright RGB, or an image file's bytes.
        caption: with attributions.
    """
    if isinstance(picture, bytes):
        picture = decode_image(picture)
    weights = caption.attributions  # (tokens, rows, columns)
    columns = min(COLUMNS, 1 + len(weights))
    rows = math.ceil((1 + len(weights)) / columns)
    tallness = min(picture.height / picture.width, TALLEST)
    area = columns * (PANEL + MARGIN) * rows * (PANEL * tallness + TITLE + MARGIN)
    side = int(PANEL * min(1, math.sqrt(MOST / area)))  # a panel's width
    scale = min(side / picture.width, side * TALLEST / picture.height)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    panels = [("", small), *((word, shade(small, one)) for word, one in zip(caption.tokens, weights, strict=True))]
    wide, tall = side + MARGIN, height + TITLE + MARGIN
    figure = Image.new("RGB", (columns * wide + MARGIN, rows * tall + MARGIN), "white")
    pen, font = ImageDraw.Draw(figure), ImageFont.load_default(16)
    for place, (word, panel) in enumerate(panels):
        left, top = MARGIN + place % columns * wide, MARGIN + place // columns * tall
        figure.paste(panel, (left + (side - width) // 2, top))
        pen.text((left + side // 2, top + height + TITLE // 2), word, fill="black", font=font, anchor="mm")
    return figure


def to_png(image: Image.Image) -> bytes:
    """An image as a PNG file's bytes."""
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()

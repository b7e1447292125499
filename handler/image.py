"""Image bytes → an RGB picture, upright and 8 bits a channel, whatever came in."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from handler.errors import EmptyBody, InvalidImage, TooManyPixels

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 50_000_000  # a 48-megapixel phone photo still fits; decoded it takes 150 MB


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes JPEG, PNG, WebP, GIF (its first frame) or BMP.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit pictures become RGB; what is
    transparent becomes white, as a viewer would show it.

    Args:
        data: the file's bytes.
        max_pixels: cap on width × height, checked from the header before any pixel is decoded.

    Returns:
        A PIL image of mode RGB.

    Raises:
        EmptyBody: there are no bytes.
        TooManyPixels: width × height is over `max_pixels`.
        InvalidImage: the bytes are of no known format, truncated or damaged.
    """
    if not data:
        raise EmptyBody("The picture is empty: send the bytes of an image file.")
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise TooManyPixels(
                f"The picture has {image.width} × {image.height} pixels, more than the {max_pixels} allowed."
            )
        image.load()
        return to_rgb(ImageOps.exif_transpose(image))
    except TooManyPixels:
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"The picture has more than the {max_pixels} pixels allowed.") from error
    except Image.UnidentifiedImageError as error:
        raise InvalidImage(f"The bytes are no picture in a known format ({', '.join(FORMATS)}).") from error
    # Pillow's decoders answer damaged files with whatever their parsing ran into.
    except Exception as error:
        raise InvalidImage("The picture is damaged or incomplete and could not be decoded.") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes → RGB, 8 bits a channel; transparency is laid over white."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it to white
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")

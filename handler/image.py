"""Decoding of image files to upright RGB with 8 bits a channel."""

from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from handler.errors import EmptyBody, InvalidImage, TooManyPixels

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 50_000_000  # pixels; a 48-megapixel phone photo still fits; decoded it takes 150 MB
MAX_SIDE = 65_535  # pixels, the JPEG limit; the memory for resizing grows with the longer side
MAX_SCANS = 30  # scans of a JPEG; a scan costs a pass over all pixels, and few bytes to write
MAX_SCANS_FULL_SIZE = 12  # scans of a JPEG with the most pixels allowed; progressive JPEGs have about ten
MAX_READS = 50_000  # reads of a file; the largest PNG in chunks of 8 KB takes 8,000
MAX_RLE_PIXELS = 512 * 512  # pixels of a run-length encoded BMP, which Pillow decodes in Python, pixel by pixel
MAX_EXIF_BYTES = 65_535  # bytes; the limit of a JPEG segment

EXIF = b"Exif\0\0"  # start of an EXIF segment
ORIENTATION = 0x0112  # EXIF tag
HEX_EXIF = "Raw profile type exif"  # PNG text chunk in which ImageMagick stores EXIF
# `ImageOps.exif_transpose` does the same, but reads EXIF of any size and writes the rest of it back, which fails on
# damaged entries: a good image would be rejected for its metadata.
EXIF_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ReadLimitedBytesIO(BytesIO):
    """A file in memory that raises `InvalidImage` after `reads` reads.

    Small malicious files can make the parsers of Pillow read for minutes.
    """

    def __init__(self, data: bytes, reads: int = MAX_READS) -> None:
        super().__init__(data)
        self.reads = reads

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes.

        Raises:
            InvalidImage: If the file was read too often.
        """
        self.reads -= 1
        if self.reads < 0:
            raise InvalidImage("The image is in too many pieces.")
        return super().read(size)


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Image.Image:
    """Decode JPEG, PNG, WebP, GIF or BMP to RGB.

    The EXIF orientation is applied. Grey, palette, CMYK and 16-bit images become RGB, and transparency becomes white.
    An animation gives its first frame.

    Args:
        data: Bytes of the file.
        max_pixels: Maximum width × height, checked before any pixel is decoded.
        min_side: See `to_upright_rgb`.

    Returns:
        An image of mode RGB.

    Raises:
        EmptyBody: If there are no bytes.
        TooManyPixels: If width × height exceeds `max_pixels`, or a side 65,535 pixels.
        InvalidImage: If the format is unknown, or the data truncated or damaged.
        MemoryError: If there is too little memory.
    """
    return to_upright_rgb(open_image(data, max_pixels), min_side)


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header of an image without decoding a pixel; arguments and errors as for `decode_image`."""
    if not data:
        raise EmptyBody("The image is empty: send the bytes of an image file.")
    try:
        image = Image.open(ReadLimitedBytesIO(_drop_duplicate_exif(data)), formats=FORMATS)
    except (InvalidImage, MemoryError):  # without memory, the image may still be valid
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"The image has more than the {max_pixels} pixels allowed.") from error
    except UnidentifiedImageError as error:
        raise InvalidImage(f"The bytes are not an image in a known format ({', '.join(FORMATS)}).") from error
    except Exception as error:  # on damaged headers, the parsers of Pillow raise errors of any type
        raise InvalidImage("The image is damaged or incomplete and could not be decoded.") from error
    _check_cost(image, data, max_pixels)
    return image


def _check_cost(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Reject an image that would take too much memory or time to decode."""
    num_pixels = image.width * image.height
    size = f"{image.width} × {image.height} pixels"
    if num_pixels > max_pixels:
        raise TooManyPixels(f"The image has {size}, more than the {max_pixels} allowed.")
    if max(image.size) > MAX_SIDE:
        raise TooManyPixels(f"The image has {size}; a side may have at most {MAX_SIDE}.")
    if image.format in ("JPEG", "MPO"):
        # The bytes FF DA cannot occur inside a scan: this counts the scans, and those of embedded thumbnails.
        scans = data.count(b"\xff\xda")
        if scans > MAX_SCANS or scans * num_pixels > MAX_SCANS_FULL_SIZE * max_pixels:
            raise InvalidImage(f"The JPEG has {scans} scans, too many for its {size}.")
    # Before it is loaded, an image knows the decoder of each of its tiles.
    tiles = getattr(image, "tile", None)
    if tiles and tiles[0].codec_name == "bmp_rle" and num_pixels > MAX_RLE_PIXELS:
        raise InvalidImage(f"The BMP is run-length encoded and has {size}, more than the {MAX_RLE_PIXELS} allowed.")


def _drop_duplicate_exif(data: bytes) -> bytes:
    """Return a JPEG with its first EXIF segment only: Pillow concatenates them and copies all of it for each."""
    head, mark, rest = data.partition(EXIF)
    return head + mark + rest.replace(EXIF, bytes(len(EXIF))) if data[:2] == b"\xff\xd8" and EXIF in rest else data


def to_upright_rgb(image: Image.Image, min_side: int | None = None) -> Image.Image:
    """Convert an image to RGB with 8 bits a channel, upright by its EXIF orientation, transparency on white.

    Args:
        image: Any image of Pillow, opened or loaded.
        min_side: Minimum side in pixels. A JPEG with sides of at least twice that is decoded at 1/2, 1/4 or 1/8 of its
            size, which costs a part of the work, as long as both sides keep `min_side` pixels.

    Raises:
        InvalidImage: If the pixels cannot be decoded.
        MemoryError: If there is too little memory.
    """
    try:
        if min_side and image.format in ("JPEG", "MPO"):
            image.draft(None, (min_side, min_side))
        image.load()
        transpose = EXIF_TRANSPOSE.get(_orientation(image))
        return _to_rgb(image if transpose is None else image.transpose(transpose))
    except (InvalidImage, MemoryError):
        raise
    except Exception as error:  # on damaged pixels, the decoders of Pillow raise errors of any type
        raise InvalidImage("The image is damaged or incomplete and could not be decoded.") from error


def is_transposed(image: Image.Image) -> bool:
    """Return True if the EXIF orientation swaps width and height (values 5–8). The image must be loaded."""
    return _orientation(image) in (5, 6, 7, 8)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1–8; 1 if there is none or EXIF is damaged, which does not affect the pixels."""
    try:
        # Pillow copies every entry, and entries may overlap: one megabyte can take gigabytes.
        if max(len(image.info.get("exif", b"")), len(image.info.get(HEX_EXIF, "")) // 2) > MAX_EXIF_BYTES:
            return 1
        orientation: int = image.getexif().get(ORIENTATION, 1)
        return orientation
    except Exception:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey to white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")

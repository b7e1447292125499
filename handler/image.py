"""Decoding of image files to upright RGB with 8 bits a channel."""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pi_heif
from PIL import Image, UnidentifiedImageError

from handler.avif_size import av1_frame_sizes, use_still_image
from handler.errors import EmptyBody, InvalidImage, TooManyPixels
from handler.image_metadata import HEX_EXIF, MAX_EXIF_BYTES, drop_metadata

# Pillow reads all of them but HEIC, i.e. HEIF, for which pi-heif wraps the decoders of libheif.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"
MAX_PIXELS = 50_000_000  # pixels; a 48-megapixel phone photo still fits; decoded it takes 150 MB
MAX_SIDE = 65_535  # pixels, the JPEG limit; the memory for resizing grows with the longer side
MAX_SCANS = 30  # scans of a JPEG; a scan costs a pass over all pixels, and few bytes to write
MAX_SCANS_FULL_SIZE = 12  # scans of a JPEG with the most pixels allowed; progressive JPEGs have about ten
MAX_READS = 50_000  # reads of a file; the largest PNG in chunks of 8 KB takes 8,000
MAX_RLE_PIXELS = 512 * 512  # pixels of a run-length encoded BMP, which Pillow decodes in Python, pixel by pixel
SAMPLE_MAXIMA = (255, 1023, 4095, 16_383, 65_535, 2**31 - 1)  # of 8, 10, 12, 14, 16 and 31 bits

MAX_AV1_FRAMES = 3  # of the most pixels allowed: an AVIF has its colours, its transparency and a preview
# Compressions whose decoders take memory by the size of the image only.
TIFF_COMPRESSIONS = (
    *("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "group3", "group4", "tiff_ccitt"),
    "zstd",
)

ORIENTATION = 0x0112  # EXIF tag
TILE_SIDES = (0x0142, 0x0143)  # TIFF tags
PHOTOMETRIC, WHITE_IS_ZERO = 0x0106, 0  # TIFF tag, and its value for negatives
DAMAGED = "The image is damaged or incomplete and could not be decoded."
OTHER_FILES = (
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "XML or an SVG drawing"),
    (b"<", "HTML or XML"),
    (b"%pdf", "a PDF document"),
    (b"pk\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"8bps", "a Photoshop document"),
    (b"\0\0\0\x0cjxl ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjp  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)  # first bytes in lower case, and what they are
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

Image.init()  # registers the formats of Pillow
pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


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
    """Decode JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC to RGB.

    The EXIF orientation is applied. Grey, palette, CMYK and 16-bit images become RGB, and transparency becomes white.
    An animation or a document gives its first frame or page. Metadata and colour profiles have no effect.

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


def has_signature(head: bytes | bytearray) -> bool:
    """Return True if the first bytes of a file are those of a format in `FORMATS`."""
    prefix = bytes(head[:16])
    for name in FORMATS:
        accept = Image.OPEN[name][1]
        try:
            if accept is None or accept(BytesIO(prefix) if name == "HEIF" else prefix):  # type: ignore[arg-type]
                return True
        except (IndexError, ValueError):  # a prefix that is too short
            continue
    return False


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header of an image without decoding a pixel; arguments and errors as for `decode_image`."""
    if not data:
        raise EmptyBody("The image is empty: send the bytes of an image file.")
    data = use_still_image(data)
    try:
        image = Image.open(ReadLimitedBytesIO(drop_metadata(data)), formats=FORMATS)
    except (InvalidImage, MemoryError):  # without memory, the image may still be valid
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"The image has more than the {max_pixels} pixels allowed.") from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Exception as error:  # on damaged headers, the parsers of Pillow raise errors of any type
        raise InvalidImage(DAMAGED) from error
    _check_cost(image, data, max_pixels)
    return image


def _unidentified(data: bytes) -> InvalidImage:
    """Describe bytes that no parser accepts."""
    if has_signature(data):
        return InvalidImage("The image is damaged, or of a kind that cannot be decoded. Save it anew as JPEG or PNG.")
    kind = next((name for prefix, name in OTHER_FILES if data.lstrip()[: len(prefix)].lower() == prefix), "")
    found = f"The bytes are {kind}, not an image" if kind else "The bytes are not an image in a known format"
    return InvalidImage(f"{found}. Send {FORMAT_NAMES}.")


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
    if image.format == "AVIF":
        _check_av1_frames(data, max_pixels)
    tags = getattr(image, "tag_v2", {})
    if image.format == "TIFF" and image.info.get("compression") not in TIFF_COMPRESSIONS:
        raise InvalidImage("The TIFF has a rare compression. Save it with LZW or Deflate, or as JPEG or PNG.")
    if image.format == "TIFF" and _tag_product(tags, TILE_SIDES) > max_pixels:
        raise TooManyPixels(f"The TIFF has tiles of more than the {max_pixels} pixels allowed.")
    # Before it is loaded, an image knows the decoder of each of its tiles.
    tiles = getattr(image, "tile", None)
    if tiles and tiles[0].codec_name == "bmp_rle" and num_pixels > MAX_RLE_PIXELS:
        raise InvalidImage(f"The BMP is run-length encoded and has {size}, more than the {MAX_RLE_PIXELS} allowed.")


def _check_av1_frames(data: bytes, max_pixels: int) -> None:
    """Reject an AVIF that has larger frames than the image it states, which the header of Pillow does not show."""
    try:
        sizes = av1_frame_sizes(data)
    except ValueError as error:
        raise InvalidImage(DAMAGED) from error
    if max(sizes, default=0) > max_pixels or sum(sizes) > MAX_AV1_FRAMES * max_pixels:
        raise TooManyPixels(f"The AVIF has frames of more than the {max_pixels} pixels allowed.")


def _tag_product(tags: Mapping[int, Any], names: Sequence[int]) -> int:
    values = [tags.get(name, 1) for name in names]
    return math.prod(value if isinstance(value, int) else 1 for value in values)


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
    data = _file_bytes(image)
    try:
        if min_side and image.format == "JPEG":
            image.draft(None, (min_side, min_side))
        image.load()
        if data and _ends_early(image, data):
            raise InvalidImage("The JPEG is truncated: pixels are missing at its end.")
        transpose = EXIF_TRANSPOSE.get(_orientation(image))
        return _to_rgb(image if transpose is None else image.transpose(transpose))
    except (InvalidImage, MemoryError):
        raise
    except Exception as error:  # on damaged pixels, the decoders of Pillow raise errors of any type
        raise InvalidImage(DAMAGED) from error


def _file_bytes(image: Image.Image) -> bytes:
    """Bytes of a JPEG that is not loaded yet; empty for other images."""
    file = getattr(image, "fp", None)
    return file.getvalue() if image.format == "JPEG" and isinstance(file, BytesIO) else b""


def _ends_early(image: Image.Image, data: bytes) -> bool:
    """Return True if a JPEG has an end marker before its last pixels, which libjpeg fills with grey, without an error.

    Only an image that is grey in its last corner is examined: it is decoded once more, with bytes before the end
    marker that libjpeg skips if it has all pixels, and takes for pixels if it does not.
    """
    corner = image.crop((image.width - 4, image.height - 4, image.width, image.height))
    if any(low != high or not 127 <= low <= 128 for low, high in _extrema(corner)):
        return False
    end = data.rfind(b"\xff\xd9")
    filled = Image.open(BytesIO(data[:end] + bytes(range(1, 255)) * 8 + data[end:]), formats=["JPEG"])
    filled.draft(image.mode, image.size)
    return filled.tobytes() != image.tobytes()


def _extrema(image: Image.Image) -> tuple[Any, ...]:
    """Least and greatest value of each band."""
    extrema: tuple[Any, ...] = image.getextrema()
    return extrema if isinstance(extrema[0], tuple) else (extrema,)


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
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # Pillow would clip them to white
        image = _to_8_bit(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise InvalidImage(f"The colours of the image ({image.mode}) cannot be read. Save it in RGB.") from error


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale grey samples of 16 or 32 bits, or floats, to 8 bits.

    A PNG uses the whole range of 16 bits. A TIFF may have fewer bits in samples of 16, and does not tell: its range is
    the smallest that holds all samples, and 0–1 for floats up to 1. Negative samples and NaN become black.
    """
    samples = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0, posinf=0, neginf=0)
    largest = float(samples.max())
    if image.format == "PNG" and image.mode.startswith("I;16"):
        scale = 65_535
    elif image.mode == "F" and largest <= 1:
        scale = 1
    else:
        scale = next((maximum for maximum in SAMPLE_MAXIMA if largest <= maximum), int(largest))
    grey = np.clip(samples * (255 / scale), 0, 255).round().astype(np.uint8)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[np.asarray(image) == transparent] = 255
    return Image.fromarray(grey)

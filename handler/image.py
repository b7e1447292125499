"""Image bytes → an RGB picture, upright and 8 bits a channel, whatever came in."""

from io import BytesIO

import numpy as np
from PIL import Image

from handler.errors import EmptyBody, InvalidImage, TooManyPixels

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 50_000_000  # a 48-megapixel phone photo still fits; decoded it takes 150 MB
MAX_SIDE = 65_535  # JPEG's own; resizing takes memory by the longer side
MAX_SCANS = 30  # of a small JPEG; each costs a pass over all pixels, and only bytes to write
SCANS = 12  # of the largest one; progressive JPEGs have about ten
MAX_READS = 50_000  # of a file; the largest PNG in pieces of 8 KB takes 8,000
MAX_RLE = 512 * 512  # pixels of a run-length encoded BMP, which Pillow decodes in Python, a pixel at a time
MAX_EXIF = 65_535  # bytes; a JPEG's segment has no more

EXIF = b"Exif\0\0"  # how its segment begins
ORIENTATION = 0x0112  # EXIF's tag
HEX_EXIF = "Raw profile type exif"  # ImageMagick's field in a PNG
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ReadLimitedBytesIO(BytesIO):
    """A file's bytes that can be read so many times: a small file can have Pillow's parsers read for minutes."""

    def __init__(self, data: bytes, reads: int = MAX_READS):
        super().__init__(data)
        self.reads = reads

    def read(self, size: int | None = -1) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise InvalidImage("The picture is in too many pieces.")
        return super().read(size)


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, enough: int | None = None) -> Image.Image:
    """Decodes JPEG, PNG, WebP, GIF (its first frame) or BMP.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit pictures become RGB; what is
    transparent becomes white, as a viewer would show it.

    Args:
        data: the file's bytes.
        max_pixels: cap on width × height, checked from the header before any pixel is decoded.
        enough: see `to_upright_rgb`.

    Returns:
        A PIL image of mode RGB.

    Raises:
        EmptyBody: there are no bytes.
        TooManyPixels: width × height is over `max_pixels`, or a side over 65,535.
        InvalidImage: the bytes are of no known format, truncated or damaged.
        MemoryError: there is too little memory for it.
    """
    return to_upright_rgb(open_image(data, max_pixels), enough)


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads a picture's header, and decodes no pixel yet; arguments and errors as for `decode_image`."""
    if not data:
        raise EmptyBody("The picture is empty: send the bytes of an image file.")
    try:
        image = Image.open(ReadLimitedBytesIO(_drop_duplicate_exif(data)), formats=FORMATS)
    except (InvalidImage, MemoryError):  # of too little memory the picture may be innocent
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"The picture has more than the {max_pixels} pixels allowed.") from error
    except Image.UnidentifiedImageError as error:
        raise InvalidImage(f"The bytes are no picture in a known format ({', '.join(FORMATS)}).") from error
    except Exception as error:  # Pillow's parsers answer damaged headers with whatever they ran into
        raise InvalidImage("The picture is damaged or incomplete and could not be decoded.") from error
    size = f"{image.width} × {image.height} pixels"
    if image.width * image.height > max_pixels:
        raise TooManyPixels(f"The picture has {size}, more than the {max_pixels} allowed.")
    if max(image.size) > MAX_SIDE:
        raise TooManyPixels(f"The picture has {size}; a side has {MAX_SIDE} at most.")
    if image.format in ("JPEG", "MPO"):
        # Inside a scan the bytes FF DA can't stand, so that this counts scans, and those of embedded thumbnails.
        scans = data.count(b"\xff\xda")
        if scans > MAX_SCANS or scans * image.width * image.height > SCANS * max_pixels:
            raise InvalidImage(f"The JPEG has {scans} scans, too many for its {size}.")
    if image.tile and image.tile[0].codec_name == "bmp_rle" and image.width * image.height > MAX_RLE:
        raise InvalidImage(f"The BMP is run-length encoded and has {size}, more than the {MAX_RLE} allowed for such.")
    return image


def _drop_duplicate_exif(data: bytes) -> bytes:
    """A JPEG with its first EXIF only: Pillow puts several together, at the cost of a copy of all for each."""
    head, mark, rest = data.partition(EXIF)
    return head + mark + rest.replace(EXIF, bytes(len(EXIF))) if data[:2] == b"\xff\xd8" and EXIF in rest else data


def to_upright_rgb(image: Image.Image, enough: int | None = None) -> Image.Image:
    """Any of Pillow's images → RGB, 8 bits a channel, turned as its EXIF says; transparency is laid over white.

    Args:
        image: not loaded yet, or in memory.
        enough: pixels that either side needs to have. A JPEG that has twice as many or more is decoded to a half, a
            quarter or an eighth of its size that still has them: its blocks give that for a part of the work.

    Raises:
        InvalidImage: its pixels can't be decoded.
        MemoryError: there is too little memory for them.
    """
    try:
        if enough and image.format in ("JPEG", "MPO"):
            image.draft(None, (enough, enough))
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        return _rgb(image if turn is None else image.transpose(turn))
    except (InvalidImage, MemoryError):
        raise
    except Exception as error:  # damaged pixels: whatever the decoder ran into
        raise InvalidImage("The picture is damaged or incomplete and could not be decoded.") from error


def is_transposed(image: Image.Image) -> bool:
    """Return True if the EXIF orientation swaps width and height (values 5–8). The image must be loaded."""
    return _orientation(image) in (5, 6, 7, 8)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1 where there is none, or EXIF that can't be read, which spoils no pixel."""
    try:
        # Entries may overlap, and Pillow copies each: a megabyte can be made to take gigabytes.
        if max(len(image.info.get("exif", b"")), len(image.info.get(HEX_EXIF, "")) // 2) > MAX_EXIF:
            return 1
        return image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip 16-bit grey to white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")

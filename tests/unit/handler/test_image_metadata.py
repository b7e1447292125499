"""Files whose pixels are whole, and whose metadata is not."""

import io
import struct
import zlib

import pytest
from PIL import Image

from handler.errors import InvalidImage
from handler.image import decode_image
from handler.image_metadata import drop_metadata
from tests.adversarial.image_parts import chunk, encoded, segment, small_image, with_chunks, with_segments

HUGE = zlib.compress(bytes(2_000_000))  # over the limit of Pillow, 1 MB
PIXELS = Image.open(io.BytesIO(small_image("PNG"))).tobytes()


def broken(data: bytes) -> bytes:
    """A chunk with another checksum."""
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"key\0\0" + HUGE),
        chunk(b"iTXt", b"key\0\1\0\0\0" + HUGE),
        chunk(b"iCCP", b"key\0\0" + HUGE),
        chunk(b"gAMA", b"\0\1"),
        chunk(b"cHRM", b"\0"),
        chunk(b"pHYs", b"\0"),
        chunk(b"sRGB", b""),
        chunk(b"acTL", b"\0"),
        broken(chunk(b"tEXt", b"key\0text")),
        broken(chunk(b"eXIf", b"MM")),
        broken(chunk(b"prVt", b"private")),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + HUGE),
        chunk(b"zTXt", b"Raw profile type exif\0\0no zlib"),
    ],
)
def test_drop_metadata_of_a_png_keeps_its_pixels(extra):
    assert decode_image(with_chunks(extra)).tobytes() == PIXELS


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"MPF\0damaged"),
        segment(0xED, b"Photoshop 3.0\0008BIM"),
        segment(0xEE, b"Adobe"),
        segment(0xFE, b"a comment"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<"),
    ],
)
def test_drop_metadata_of_a_jpeg_keeps_its_pixels(extra):
    assert decode_image(with_segments(extra)).tobytes() == decode_image(small_image("JPEG")).tobytes()


def tiff_with(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """A TIFF in which one tag that is no pixel's, XResolution, is replaced."""
    data = bytearray(encoded(Image.open(io.BytesIO(small_image("PNG"))), "TIFF", dpi=(72, 72)))
    at = data.index(struct.pack("<HHL", 282, 5, 1))
    struct.pack_into("<HHL4s", data, at, tag, kind, count, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        (282, 2, 4, b"text"),  # a resolution that is a text
        (282, 99, 1, b""),  # of an unknown type
        (34665, 4, 1, struct.pack("<L", 0xFFFFFF)),  # EXIF behind the end of the file
        (700, 1, 2**31, b""),  # XMP larger than the file
    ],
)
def test_drop_metadata_of_a_tiff_keeps_its_pixels(tag, kind, count, value):
    assert decode_image(tiff_with(tag, kind, count, value)).tobytes() == PIXELS


def test_tiff_in_too_many_strips_is_rejected():
    data = bytearray(small := encoded(Image.new("L", (8, 8)), "TIFF"))
    at = small.index(struct.pack("<HH", 273, 4))  # StripOffsets, LONG
    struct.pack_into("<L", data, at + 4, 1_000_000)
    with pytest.raises(InvalidImage, match="too many pieces"):
        decode_image(bytes(data))


def test_drop_metadata_keeps_other_files_and_damaged_ones():
    for data in (b"", b"x", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"II*\0", small_image("WEBP"), small_image("GIF")):
        assert drop_metadata(data) == data

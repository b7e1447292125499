"""Small files that are expensive to decode, in memory or in time."""

import struct
import zlib

from PIL import Image

from tests.adversarial.case import EITHER, cases
from tests.adversarial.image_parts import (
    before_image,
    bits_of_webp,
    bmp,
    chunk,
    deflated_zeros,
    encoded,
    exif,
    ifd,
    noise,
    png,
    segment,
    small_image,
    webp,
    with_chunks,
    with_segments,
)  # fmt: skip

MILLIONS = 5_000_000


def scans(count: int, width: int, height: int) -> bytes:
    """Return a JPEG whose last scan is repeated."""
    data = encoded(Image.new("RGB", (width, height)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def framed(width: int, height: int) -> bytes:
    """Return a WebP of small frames on a large canvas."""
    name, data = bits_of_webp()
    frame = bytes(6) + bytes([15, 0, 0, 15, 0, 0, 0, 0, 0, 0]) + name + struct.pack("<I", len(data)) + data
    return webp(width, height, (b"ANIM", bytes(6)), (b"ANMF", frame), (b"ANMF", frame), flags=2)


def sized(fmt: str, width: int, height: int) -> bytes:
    """Return a small image whose header states another size."""
    data = bytearray(small_image(fmt))
    if fmt == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    elif fmt == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    else:
        data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def in_strips(count: int) -> bytes:
    """Return a TIFF that states a number of strips."""
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "TIFF"))
    at = data.index(struct.pack("<HH", 273, 4)) + 4
    data[at : at + 4] = struct.pack("<L", count)
    return bytes(data) + bytes(4 * count)


def in_tiles(side: int) -> bytes:
    """Return a TIFF of 8 × 8 pixels in one compressed tile of `side` × `side`."""
    pixels = zlib.compress(bytes(side))
    tags = (
        (256, 8),
        (257, 8),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, side),
        (323, side),
        (324, 500),
        (325, len(pixels)),
    )
    return ifd(*((tag, 4, 1, value) for tag, value in tags)).ljust(500, b"\0") + pixels


BOMBS = [
    *cases("too many pixels", "TooManyPixels", {
        "PNG of 60000 × 60000": lambda: png(60_000, 60_000, deflated_zeros(1 << 24), bits=1, colour=0),
        "PNG of 2³¹ × 2³¹": lambda: png(2**31 - 1, 2**31 - 1, b""),
        "PNG of 100000 × 1": lambda: encoded(Image.new("RGB", (100_000, 1)), "PNG"),
        "PNG of 1 × 100000": lambda: encoded(Image.new("RGB", (1, 100_000)), "PNG"),
        "PNG of 9000 × 9000, whole": lambda: encoded(Image.new("1", (9000, 9000)), "PNG"),
        "JPEG of 65000 × 65000": lambda: sized("JPEG", 65_000, 65_000),
        "JPEG of 8000 × 8000": lambda: sized("JPEG", 8000, 8000),
        "GIF of 65535 × 65535": lambda: sized("GIF", 65_535, 65_535),
        "GIF of 13000 × 13000 to be cleared": lambda: before_image(b"!\xf9\x04\x08\0\0\0\0", (13_000, 13_000)),
        "BMP of 40000 × 40000": lambda: sized("BMP", 40_000, 40_000),
        "TIFF in a tile of 30000 × 30000": lambda: in_tiles(30_000),
        "WebP on a canvas of 13000 × 13000": lambda: framed(13_000, 13_000),
        "WebP on a canvas of 16384 × 16384": lambda: framed(16_384, 16_384),
    }),
    *cases("bombs", "InvalidImage", {
        "PNG of 7000 × 7000 that ends early": lambda: png(7000, 7000, deflated_zeros(1 << 20)),
        "GIF of 7000 × 7000 that ends early": lambda: sized("GIF", 7000, 7000)[:-4000],
        "BMP of 7000 × 7000 that ends early": lambda: sized("BMP", 7000, 7000),
        "JPEG of 4096 × 4096 that ends early": lambda: sized("JPEG", 4096, 4096),  # libjpeg fills it with grey
        "TIFF of a million strips": lambda: in_strips(1_000_000),
    }),
    *cases("bombs", "caption", {
        "PNG of 7000 × 7000 in 140 KB": lambda: png(7000, 7000, deflated_zeros(7000 * 21_001 + (1 << 20))),
        "PNG with 50 MB behind its last row": lambda: png(64, 64, deflated_zeros(50 << 20)),
        "GIF of 6000 × 6000": lambda: encoded(Image.new("P", (6000, 6000)), "GIF"),
        "WebP of 4000 × 4000": lambda: encoded(Image.new("RGB", (4000, 4000)), "WEBP", method=0),
    }),
    *cases("slow", "InvalidImage", {
        "JPEG of 3000 scans": lambda: scans(3000, 1000, 1000),
        "JPEG of 48 megapixels and 25 scans": lambda: scans(16, 8000, 6000),
        "JPEG of 5 million fill bytes": lambda: with_segments(b"\xff" * MILLIONS),
        "JPEG of 5 million bytes of junk": lambda: with_segments(b"x" * MILLIONS),
        "JPEG of a million empty segments": lambda: with_segments(segment(0xE5, b"") * 1_000_000),
        "PNG of a million empty chunks": lambda: with_chunks(chunk(b"tEXt") * 1_000_000),
        "PNG whose rows come in a million chunks": lambda: with_chunks(chunk(b"IDAT") * 1_000_000),
        "GIF of 5 million blocks": lambda: before_image(b"!\xfe" + b"\1x" * MILLIONS + b"\0"),
        "GIF of 3 million extensions": lambda: before_image(b"!\xf9\0" * 3_000_000),
        "BMP of 7000 × 7000 by line ends": lambda: bmp(7000, 7000, b"\1\1\0\0" * 7000),
        "BMP of 7000 × 7000 by runs": lambda: bmp(7000, 7000, b"\1\1" * MILLIONS),
        "BMP of 7000 × 7000 in 4 bits": lambda: bmp(7000, 7000, b"\xff\1" * 200_000, bits=4, compression=2),
        "BMP of 512 × 512 by empty steps": lambda: bmp(512, 512, b"\0\2\0\0" * 3_000_000),
    }),
    *cases("slow", EITHER, {
        "JPEG of 30 scans": lambda: scans(21, 1500, 1000),
        "GIF of 3000 × 3000 in one-letter codes": lambda: before_image(b"", (3000, 3000)),
        "JPEG of EXIF in 50,000 pieces": lambda: with_segments(
            exif(bytes(4_000_000)) + segment(0xE1, b"Exif\0\0x") * 50_000
        ),
        "JPEG with a huge EXIF directory": lambda: with_segments(exif(ifd(*((n, 4, 1, 8) for n in range(5000))))),
        "JPEG with an index of 60,000 images": lambda: with_segments(
            segment(0xE2, b"MPF\0" + ifd((0xB001, 4, 1, 60_000), (0xB002, 7, 60_000, 8)) + bytes(60_000))
        ),
        "BMP of 512 × 512 by line ends": lambda: bmp(512, 512, b"\1\1\0\0" * 512),
    }),
    *cases("too large", "TooLarge", {
        "50 MB of zeros": lambda: bytes(50_000_000),
        "image of 50 MB": lambda: encoded(noise(4096, 4096), "BMP"),
        "image of 25 MB": lambda: encoded(noise(3000, 2800), "BMP"),
    }),
]  # fmt: skip

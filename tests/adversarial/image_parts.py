"""Parts of image files."""

import struct
import zlib
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    """Return the encoded file of an image."""
    stream = BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


@cache
def noise(width: int = 64, height: int = 48) -> Image.Image:
    """Return an image that does not compress."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def small_image(fmt: str) -> bytes:
    """Return a small valid file in a format."""
    return encoded(noise(), fmt)


def chunk(name: bytes, data: bytes = b"") -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes, bits: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """Return a PNG of compressed rows, with `extra` chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND")


def with_chunks(extra: bytes) -> bytes:
    """Return a small valid PNG with more chunks after its header."""
    data = small_image("PNG")
    return data[:33] + extra + data[33:]


def deflated_zeros(count: int) -> bytes:
    """Return `count` zeros, compressed to a thousandth."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(count >> 20)) + packer.flush()


def segment(marker: int, data: bytes) -> bytes:
    """Return a JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(extra: bytes) -> bytes:
    """Return a small valid JPEG with more segments in place of the JFIF segment."""
    data = small_image("JPEG")
    return data[:2] + extra + data[4 + int.from_bytes(data[4:6], "big") :]


def exif(data: bytes) -> bytes:
    """Return the EXIF of a JPEG, in as many segments as it needs."""
    return b"".join(segment(0xE1, b"Exif\0\0" + data[at : at + 65_000]) for at in range(0, len(data), 65_000))


def ifd(*entries: tuple[int, int, int, int], next_one: int = 0) -> bytes:
    """Return a TIFF header and one directory of (tag, type, count, value or offset)."""
    packed = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + struct.pack("<L", next_one)


def bmp(width: int, height: int, data: bytes, bits: int = 8, compression: int = 1) -> bytes:
    """Return a BMP with run-length encoded data."""
    palette = b"".join(bytes([value, value, value ^ 1, 0]) for value in range(1 << bits))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 1 << bits, 0)
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + palette + data


def before_image(extra: bytes, size: tuple[int, int] = (16, 16)) -> bytes:
    """Return a GIF with extensions before its image."""
    data = encoded(Image.new("P", size), "GIF")
    at = data.index(b",")
    return data[:at] + extra + data[at:]


def webp(width: int, height: int, *chunks: tuple[bytes, bytes], flags: int = 0) -> bytes:
    """Return an extended WebP of a canvas and chunks."""
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    parts = [(b"VP8X", bytes([flags, 0, 0, 0]) + canvas), *chunks]
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bits_of_webp() -> tuple[bytes, bytes]:
    """Return the name and data of the chunk with the pixels of a small WebP."""
    data = encoded(Image.new("RGB", (16, 16), "red"), "WEBP")
    return data[12:16], data[20:]

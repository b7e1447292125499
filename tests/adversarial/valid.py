"""Unusual images that are valid and get a caption."""

import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from tests.adversarial.case import CAPTION, cases
from tests.adversarial.image_parts import (
    before_image,
    bmp,
    chunk,
    encoded,
    exif,
    ifd,
    noise,
    png,
    segment,
    small_image,
    with_chunks,
    with_segments,
)  # fmt: skip
from tests.helpers.heic_files import HEIC

ZIPPED = zlib.compress(b"x" * 50_000_000, 9)


def cmyk(profile: bytes | None = None) -> bytes:
    return encoded(noise().convert("CMYK"), "JPEG", **({"icc_profile": profile} if profile else {}))


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def animated(fmt: str, count: int = 3) -> bytes:
    frames = [Image.new("RGB", (32, 32), (number * 7 % 256, 0, 0)) for number in range(count)]
    return encoded(frames[0], fmt, save_all=True, append_images=frames[1:], duration=10)


def rows(width: int, height: int, each: bytes) -> bytes:
    return zlib.compress((b"\0" + each * width) * height)


def turned(value: int) -> bytes:
    return with_segments(exif(ifd((0x0112, 3, 1, value))))


def grey16() -> bytes:
    return encoded(Image.fromarray(np.full((16, 32), 40_000, dtype=np.uint16)), "PNG")


def transparent() -> bytes:
    return encoded(noise().quantize(16), "PNG", transparency=bytes(range(16)))


VALID = cases(
    "valid",
    CAPTION,
    {f"small {fmt}": lambda fmt=fmt: small_image(fmt) for fmt in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")},
)
VALID += cases(
    "valid",
    CAPTION,
    {
        "one pixel": lambda: encoded(Image.new("RGB", (1, 1)), "PNG"),
        "60000 × 1": lambda: encoded(Image.new("RGB", (60_000, 1)), "PNG"),
        "1 × 60000": lambda: encoded(Image.new("RGB", (1, 60_000)), "PNG"),
        "progressive JPEG": lambda: encoded(noise(), "JPEG", progressive=True),
        "bilevel PNG": lambda: encoded(noise().convert("1"), "PNG"),
        "grey PNG of 16 bits": grey16,
        "RGB PNG of 16 bits": lambda: png(32, 16, rows(32, 16, struct.pack(">3H", 65535, 0, 300)), bits=16),
        "RGBA PNG of 16 bits": lambda: png(32, 16, rows(32, 16, struct.pack(">4H", 9, 9, 9, 9)), bits=16, colour=6),
        "palette with transparency": transparent,
        "grey with alpha": lambda: encoded(noise().convert("LA"), "PNG"),
        "CMYK": cmyk,
        "CMYK with a profile": lambda: cmyk(srgb()),
        "broken profile in a JPEG": lambda: encoded(noise(), "JPEG", icc_profile=b"no profile"),
        "profile of 1 MB": lambda: encoded(noise(), "JPEG", icc_profile=bytes(1_000_000)),
        "broken profile in a PNG": lambda: with_chunks(chunk(b"iCCP", b"name\0\0no zlib")),
        "animated GIF": lambda: animated("GIF"),
        "animated WebP": lambda: animated("WEBP"),
        "animated PNG": lambda: animated("PNG"),
        "GIF of 500 frames": lambda: animated("GIF", 500),
        "EXIF orientation 6": lambda: turned(6),
        "EXIF orientation 99": lambda: turned(99),
        "EXIF orientation that is a text": lambda: with_segments(exif(ifd((0x0112, 2, 4, 0x41414141)))),
        "EXIF that is circular": lambda: with_segments(exif(ifd((0x8769, 4, 1, 8), (0x8825, 4, 1, 8), next_one=8))),
        "EXIF of a huge count": lambda: with_segments(exif(ifd((0x0112, 3, 2**32 - 1, 8)))),
        "EXIF that is cut off": lambda: with_segments(exif(ifd((0x0112, 3, 1, 6))[:15])),
        "EXIF of noise": lambda: with_segments(exif(noise().tobytes()[:5000])),
        "EXIF whose entries overlap, in a PNG": lambda: with_chunks(chunk(b"eXIf", overlapping(9000, 400_000))),
        "EXIF whose entries overlap, in a JPEG": lambda: with_segments(exif(overlapping(9000, 400_000))),
        "run-length encoded BMP": lambda: bmp(64, 64, b"\x40\x07\0\0" * 64 + b"\0\1"),
        "comment of 60 KB in a GIF": lambda: before_image(b"!\xfe" + (b"\xff" + b"x" * 255) * 240 + b"\0"),
        "wrong suffix": lambda: small_image("WEBP"),
        "GIF and JavaScript": lambda: small_image("GIF") + b"=1;alert(document.domain)//",
        "JPEG and ZIP": lambda: small_image("JPEG") + b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18),
        "JPEG with HTML in a comment": lambda: with_segments(segment(0xFE, b"<script>alert(1)</script>")),
        "PNG with 10,000 lines of text": lambda: with_chunks(chunk(b"tEXt", b"a\0b") * 10_000),
        "HEIC": lambda: HEIC,
        "TIFF of floats": lambda: encoded(Image.fromarray(np.full((16, 32), 0.5, dtype=np.float32)), "TIFF"),
        "TIFF of 16 bits": lambda: encoded(Image.fromarray(np.full((16, 32), 40_000, dtype=np.uint16)), "TIFF"),
        "iTXt of 50 MB": lambda: with_chunks(chunk(b"iTXt", b"key\0\1\0\0\0" + ZIPPED)),
        "zTXt of 50 MB": lambda: with_chunks(chunk(b"zTXt", b"key\0\0" + ZIPPED)),
        "iCCP of 50 MB": lambda: with_chunks(chunk(b"iCCP", b"key\0\0" + ZIPPED)),
        "100 zTXt of 1 MB": lambda: with_chunks(chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(1_000_000))) * 100),
        "gamma of two bytes": lambda: with_chunks(chunk(b"gAMA", b"\0\1")),
        "a checksum of a text is wrong": lambda: with_chunks(chunk(b"tEXt", b"key\0text")[:-1] + b"?"),
        "bytes after its end": lambda: small_image("PNG") + bytes(1_000_000),
    },
)  # fmt: skip


def overlapping(entries: int, size: int) -> bytes:
    """Return a TIFF directory in which the value of each entry is all that follows: gigabytes together."""
    head = ifd(*((1000 + number, 1, size, 8) for number in range(entries)))
    return head + bytes(size + 8 - len(head))

"""Files that are not images, or images in formats that are not supported."""

import struct

from tests.adversarial.case import cases
from tests.adversarial.image_parts import encoded, noise, small_image

UNSUPPORTED = [
    *cases("no image", "EmptyBody", {"nothing": lambda: b""}),
    *cases("no image", "InvalidImage", {
        "one byte": lambda: b"\xff",
        "zeros": lambda: bytes(1_000_000),
        "HTML": lambda: b"<!doctype html><html><script>alert(1)</script></html>",
        "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "SVG of a billion laughs": lambda: b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>',
        "PDF": lambda: encoded(noise(), "PDF"),
        "PSD": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 48, 64, 8, 3) + bytes(40_000),
        "EPS": lambda: encoded(noise(), "EPS"),
        "EPS that runs a command": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n",
        "ICO": lambda: encoded(noise(), "ICO"),
        "JPEG 2000": lambda: encoded(noise(), "JPEG2000"),
        "JPEG XL": lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100),
        "ZIP": lambda: b"PK\x05\x06" + bytes(18),
        "a pickle": lambda: b"cos\nsystem\n(S'id'\ntR.",
        "first bytes of a JPEG": lambda: b"\xff\xd8\xff",
        "JPEG of 12 bits": lambda: small_image("JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
        "signature of a PNG": lambda: b"\x89PNG\r\n\x1a\n",
        "PNG of no width": lambda: small_image("PNG")[:16] + bytes(8) + small_image("PNG")[24:],
        "GIF without an image": lambda: b"GIF89a\x10\0\x10\0\0\0\0;",
        "an image after line breaks": lambda: b"\n\n" + small_image("PNG"),
    }),
    *cases("no image", "TooManyPixels", {
        "BMP of a negative width": lambda: small_image("BMP")[:18] + struct.pack("<i", -64) + small_image("BMP")[22:],
    }),
]  # fmt: skip

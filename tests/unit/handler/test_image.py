"""Decoding of image files: formats, orientation, limits, and damaged files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from handler.errors import EmptyBody, InvalidImage, TooManyPixels
from handler.image import decode_image, has_signature, is_transposed, open_image, to_upright_rgb
from tests.helpers.heic_files import HEIC, HEIC_TRANSPARENT, HEIC_TURNED
from tests.helpers.paths import ROOT

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def halves(mode: str, left, right) -> Image.Image:
    """An image of 32 × 16, one colour on the left half and one on the right."""
    image = Image.new(mode, (32, 16), left)
    image.paste(right, (16, 0, 32, 16))
    return image


def palette(**options) -> bytes:
    return encoded(halves("RGB", RED, BLUE).quantize(4), **options)


def transparent_palette() -> bytes:
    image = Image.new("P", (32, 16), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (16, 0, 32, 16))
    return encoded(image, "PNG", transparency=1)


def grey16(left: int, right: int) -> bytes:
    pixels = np.full((16, 32), left, dtype=np.uint16)
    pixels[:, 16:] = right
    return encoded(Image.fromarray(pixels), "PNG")


def animation(fmt: str) -> bytes:
    first, second = halves("RGB", RED, BLUE), halves("RGB", GREEN, GREEN)
    options = {"lossless": True} if fmt == "WEBP" else {}
    return encoded(first, fmt, save_all=True, append_images=[second], duration=100, **options)


def png(depth: int, colour: int, row: bytes, extra: bytes = b"") -> bytes:
    """A PNG of 32 × 16 pixels with equal rows, of kinds that Pillow reads and does not write."""
    header = struct.pack(">IIBBBBB", 32, 16, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b"")


RGB16 = struct.pack(">3H", 65535, 0, 0) * 16 + struct.pack(">3H", 0, 0, 65535) * 16
GREY16 = struct.pack(">H", 0x8000) * 16 + struct.pack(">H", 0x0102) * 16
GREY4 = b"\x22" * 8 + b"\x77" * 8  # 2 and 7 of 15, i.e. 34 and 119 of 255


def tiff(pixels: np.ndarray, **options) -> bytes:
    """A TIFF of two values, one on the left half and one on the right."""
    return encoded(Image.fromarray(pixels), "TIFF", **options)


def columns(left: float, right: float, dtype: type) -> np.ndarray:
    return np.repeat(np.array([[left] * 16 + [right] * 16], dtype), 16, axis=0)


def big_endian_tiff() -> bytes:
    return encoded(Image.frombytes("I;16B", (32, 16), columns(0x8000, 0xFFFF, ">u2").tobytes()), "TIFF")


def negative_tiff() -> bytes:
    """White is zero: 0x7FFF of 0xFFFF is shown as 0x8000, i.e. 128 of 255."""
    data = bytearray(tiff(columns(0x7FFF, 0xFFFF, np.uint16)))
    at = data.index(struct.pack("<HHL", 262, 3, 1))  # PhotometricInterpretation, SHORT, one value
    data[at + 8 : at + 10] = b"\0\0"
    return bytes(data)


RED_BLUE = halves("RGB", RED, BLUE)

IMAGES = {
    "jpeg": (encoded(RED_BLUE, "JPEG", quality=95), RED, BLUE),
    "jpeg progressive": (encoded(RED_BLUE, "JPEG", quality=95, progressive=True), RED, BLUE),
    "jpeg grey": (encoded(halves("L", 0, 128), "JPEG"), (0, 0, 0), (128, 128, 128)),
    "jpeg cmyk": (encoded(halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "JPEG", quality=95), RED, BLUE),
    "png": (encoded(RED_BLUE, "PNG"), RED, BLUE),
    "png bilevel": (encoded(halves("1", 0, 1), "PNG"), (0, 0, 0), WHITE),
    "png grey": (encoded(halves("L", 10, 200), "PNG"), (10, 10, 10), (200, 200, 200)),
    "png palette": (palette(fmt="PNG"), RED, BLUE),
    "png palette, transparent": (transparent_palette(), RED, WHITE),
    "png grey and alpha": (encoded(halves("LA", (10, 255), (200, 0)), "PNG"), (10, 10, 10), WHITE),
    "png rgb, one colour transparent": (encoded(RED_BLUE, "PNG", transparency=BLUE), RED, WHITE),
    "png rgba": (encoded(halves("RGBA", (*RED, 255), (*BLUE, 0)), "PNG"), RED, WHITE),
    "png rgba, half transparent": (encoded(halves("RGBA", (*RED, 255), (0, 0, 0, 128)), "PNG"), RED, (127, 127, 127)),
    "png grey 16 bits": (grey16(0x8000, 0xFFFF), (128, 128, 128), WHITE),
    "png rgb 16 bits": (png(16, 2, RGB16), RED, BLUE),
    "png grey 4 bits": (png(4, 0, GREY4), (34, 34, 34), (119, 119, 119)),
    "png rgb 16 bits, blue transparent": (png(16, 2, RGB16, chunk(b"tRNS", RGB16[-6:])), RED, WHITE),
    "png grey 16 bits, one transparent": (png(16, 0, GREY16, chunk(b"tRNS", b"\1\2")), (128, 128, 128), WHITE),
    "png grey 16 bits, another transparent": (png(16, 0, GREY16, chunk(b"tRNS", b"\1\3")), (128, 128, 128), (1, 1, 1)),
    "png grey 4 bits, one transparent": (png(4, 0, GREY4, chunk(b"tRNS", b"\0\7")), (34, 34, 34), WHITE),
    "tiff": (encoded(RED_BLUE, "TIFF"), RED, BLUE),
    "tiff lzw": (encoded(RED_BLUE, "TIFF", compression="tiff_lzw"), RED, BLUE),
    "tiff jpeg": (encoded(RED_BLUE, "TIFF", compression="jpeg", quality=95), RED, BLUE),
    "tiff cmyk": (encoded(halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "TIFF"), RED, BLUE),
    "tiff rgba": (encoded(halves("RGBA", (*RED, 255), (*BLUE, 0)), "TIFF"), RED, WHITE),
    "tiff of two pages": (
        encoded(RED_BLUE, "TIFF", save_all=True, append_images=[halves("RGB", GREEN, GREEN)]),
        RED,
        BLUE,
    ),
    "tiff bilevel": (encoded(halves("1", 0, 1), "TIFF", compression="group4"), (0, 0, 0), WHITE),
    "tiff grey 16 bits": (tiff(columns(0x8000, 0xFFFF, np.uint16)), (128, 128, 128), WHITE),
    "tiff grey 16 bits, big-endian": (big_endian_tiff(), (128, 128, 128), WHITE),
    "tiff grey 16 bits, lzw": (
        tiff(columns(0x8000, 0xFFFF, np.uint16), compression="tiff_lzw"),
        (128, 128, 128),
        WHITE,
    ),
    "tiff grey 16 bits, white is zero": (negative_tiff(), (128, 128, 128), (0, 0, 0)),
    "tiff grey, 12 of 16 bits": (tiff(columns(0x800, 0xFFF, np.uint16)), (128, 128, 128), WHITE),
    "tiff grey 32 bits": (tiff(columns(0x8000, 0xFFFF, np.int32)), (128, 128, 128), WHITE),
    "tiff of floats to 1": (tiff(columns(0.5, 1, np.float32)), (128, 128, 128), WHITE),
    "tiff of floats to 65535": (tiff(columns(0x8000, 0xFFFF, np.float32)), (128, 128, 128), WHITE),
    "tiff of floats and NaN": (tiff(columns(1, np.nan, np.float32)), WHITE, (0, 0, 0)),
    "avif": (encoded(RED_BLUE, "AVIF", quality=100, subsampling="4:4:4"), RED, BLUE),
    "avif rgba": (encoded(halves("RGBA", (*RED, 255), (*BLUE, 0)), "AVIF", quality=100), RED, WHITE),
    "heic": (HEIC, RED, BLUE),
    "heic rgba": (HEIC_TRANSPARENT, RED, WHITE),
    "webp": (encoded(RED_BLUE, "WEBP", lossless=True), RED, BLUE),
    "webp animated": (animation("WEBP"), RED, BLUE),
    "gif": (palette(fmt="GIF"), RED, BLUE),
    "gif animated": (animation("GIF"), RED, BLUE),
    "bmp": (encoded(RED_BLUE, "BMP"), RED, BLUE),
}


@pytest.mark.parametrize("name", IMAGES)
def test_decode_image_converts_to_rgb(name):
    data, left, right = IMAGES[name]
    image = decode_image(data)
    assert image.mode == "RGB"
    assert image.size == (32, 16)
    tolerance = 9 if name.startswith("heic") else 3
    assert image.getpixel((4, 8)) == pytest.approx(left, abs=tolerance)
    assert image.getpixel((27, 8)) == pytest.approx(right, abs=tolerance)
    assert has_signature(data[:16])


# The corner that shows the stored top left corner, by EXIF orientation.
CORNERS = {
    1: "top left",
    2: "top right",
    3: "bottom right",
    4: "bottom left",
    5: "top left",
    6: "top right",
    7: "bottom right",
    8: "bottom left",
}


@pytest.mark.parametrize("orientation", CORNERS)
def test_decode_image_applies_the_exif_orientation(orientation):
    stored = Image.new("RGB", (64, 32), BLUE)
    stored.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = decode_image(encoded(stored, "JPEG", quality=95, exif=exif))
    assert shown.size == ((64, 32) if orientation < 5 else (32, 64))
    vertical, horizontal = CORNERS[orientation].split()
    x = 4 if horizontal == "left" else shown.width - 5
    y = 4 if vertical == "top" else shown.height - 5
    assert shown.getpixel((x, y)) == pytest.approx(RED, abs=6)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"])
def test_truncated_image_is_rejected(fmt):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = HEIC if fmt == "HEIC" else encoded(noise, fmt)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(InvalidImage):
            decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "data", [b"not an image", b"<html></html>", b"\xff\xd8\xff", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"%PDF-1.4"]
)
def test_other_bytes_are_rejected(data):
    with pytest.raises(InvalidImage):
        decode_image(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            encoded(RED_BLUE, "PPM"),
            "not an image in a known format. Send JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC.",
        ),
        (encoded(RED_BLUE, "JPEG2000"), "The bytes are JPEG 2000, not an image. Send JPEG"),
        (b"%PDF-1.4", "The bytes are a PDF document"),
        (b" <svg xmlns='x'/>", "an SVG drawing"),
        (b"<!doctype html>", "HTML or XML"),
        (b"PK\3\4", "a ZIP archive"),
        (b"\x89PNG\r\n\x1a\n", "damaged, or of a kind that cannot be decoded"),
    ],
)
def test_decode_image_of_unknown_bytes_names_them_and_the_formats(data, message):
    with pytest.raises(InvalidImage, match=message):
        decode_image(data)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_jpeg_that_ends_early_with_an_end_marker_is_rejected(share):
    """libjpeg fills the rest with grey, without an error."""
    data = encoded(Image.open(ROOT / "samples" / "photos" / "cat.jpg"), "JPEG")
    with pytest.raises(InvalidImage, match="pixels are missing at its end"):
        decode_image(data[: int(len(data) * share)] + b"\xff\xd9", min_side=100)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg_that_is_grey_at_its_end_is_decoded(options):
    grey = halves("RGB", RED, (128, 128, 128))
    assert decode_image(encoded(grey, "JPEG", **options)).getpixel((31, 15)) == (128, 128, 128)


@pytest.mark.parametrize("fmt", ["TIFF", "AVIF", "PNG", "WEBP", "JPEG", "HEIC"])
def test_size_of_a_turned_image_is_known_after_it_is_loaded(fmt):
    """`is_transposed` says whether the size in the header is that of the upright image: 16 × 32."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_image(HEIC_TURNED if fmt == "HEIC" else encoded(RED_BLUE, fmt, exif=exif))
    width, height = image.size
    upright = to_upright_rgb(image)
    assert upright.size == (16, 32) == ((height, width) if is_transposed(image) else (width, height))
    assert upright.getpixel((8, 4)) == pytest.approx(RED, abs=40)


def test_empty_bytes_are_rejected():
    with pytest.raises(EmptyBody):
        decode_image(b"")


def test_max_pixels_is_exact_and_checked_before_decoding():
    data = encoded(RED_BLUE, "PNG")
    assert decode_image(data, max_pixels=512).size == (32, 16)
    with pytest.raises(TooManyPixels, match="32 × 16"):
        decode_image(data, max_pixels=511)
    header_only = encoded(Image.new("L", (5000, 5000)), "PNG")[:100]  # decoding it would fail: it is cut off
    with pytest.raises(TooManyPixels, match="5000 × 5000"):
        decode_image(header_only, max_pixels=24_000_000)


def test_max_side_is_exact():
    """49,000,000 × 1 pixels are within the limit of pixels, but resizing them would take gigabytes."""
    for size in ((49_000_000, 1), (1, 70_000)):
        with pytest.raises(TooManyPixels, match="a side may have at most 65535"):
            decode_image(encoded(Image.new("1", size), "PNG"))
    assert decode_image(encoded(Image.new("1", (65_535, 1)), "PNG")).size == (65_535, 1)


def test_jpeg_with_too_many_scans_is_rejected():
    """A scan is few bytes and a pass over all pixels: without a limit a file keeps a worker busy for minutes."""
    data = encoded(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    assert decode_image(data).size == (2000, 2000)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    with pytest.raises(InvalidImage, match="has 110 scans, too many for its 2000 × 2000 pixels"):
        decode_image(data[:last] + scan * 101 + data[-2:])
    # The more pixels, the fewer scans: 4 megapixels of 30 scans cost what 10 of 12 do.
    some = data[:last] + scan * 21 + data[-2:]
    assert decode_image(some, max_pixels=10_000_000).size == (2000, 2000)
    with pytest.raises(InvalidImage, match="has 30 scans"):
        decode_image(some, max_pixels=9_000_000)


def test_damaged_metadata_does_not_affect_the_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(RED_BLUE, "JPEG", quality=95, exif=exif)
    assert decode_image(turned).size == (16, 32)
    garbage = turned.replace(b"Exif\0\0MM", b"Exif\0\0??").replace(b"Exif\0\0II", b"Exif\0\0??")
    assert garbage != turned
    assert decode_image(garbage).size == (32, 16)  # unreadable EXIF has no effect
    odd = Image.Exif()
    odd[0x0112] = 6
    odd[0x010F] = "no number"  # the text of Make, to be relabelled as the number of XResolution
    named = encoded(RED_BLUE, "JPEG", exif=odd)
    wrong = named.replace(b"\x01\x0f\x00\x02", b"\x01\x1a\x00\x02").replace(b"\x0f\x01\x02\x00", b"\x1a\x01\x02\x00")
    assert wrong != named
    assert decode_image(wrong).size == (16, 32)


def test_to_upright_rgb_takes_pil_images():
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(RED_BLUE, "JPEG", quality=95, exif=exif)
    assert to_upright_rgb(Image.open(io.BytesIO(data))).tobytes() == decode_image(data).tobytes()
    with pytest.raises(InvalidImage):
        to_upright_rgb(Image.open(io.BytesIO(data[:-20])))


def test_decompression_bomb_is_rejected():
    bomb = bytearray(encoded(RED_BLUE, "PNG"))
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with pytest.raises(TooManyPixels):
        decode_image(bytes(bomb))


@pytest.mark.parametrize(
    ("min_side", "size"), [(None, (1280, 960)), (481, (1280, 960)), (480, (640, 480)), (100, (160, 120))]
)
def test_large_jpeg_is_decoded_at_a_reduced_size(min_side, size):
    photo = Image.open(ROOT / "samples" / "photos" / "flower.jpg").resize((1280, 960), Image.Resampling.BICUBIC)
    data = encoded(photo, "JPEG", quality=90)
    assert decode_image(data, min_side=min_side).size == size
    assert decode_image(encoded(photo, "PNG"), min_side=min_side).size == (1280, 960)


def test_is_transposed_depends_on_the_orientation():
    for orientation, does in ((1, False), (3, False), (6, True), (8, True)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.open(io.BytesIO(encoded(RED_BLUE, "JPEG", exif=exif)))
        assert to_upright_rgb(image).size == ((16, 32) if does else (32, 16))
        assert is_transposed(image) == does


def test_too_many_reads_are_rejected():
    """Fill bytes before a JPEG's segment are read one by one; PNGs in chunks of 8 KB are far from the limit."""
    data = encoded(RED_BLUE, "JPEG")
    assert decode_image(data[:2] + b"\xff" * 10_000 + data[2:]).size == (32, 16)
    with pytest.raises(InvalidImage, match="too many pieces"):
        decode_image(data[:2] + b"\xff" * 60_000 + data[2:])


def test_large_run_length_encoded_bmp_is_rejected():
    """Pillow decodes them in Python: 50 megapixels would take half a minute."""
    header = struct.pack("<IiiHHIIiiII", 40, 512, 512, 1, 8, 1, 0, 0, 0, 256, 0)
    palette = b"".join(bytes([value, 0, 0, 0]) for value in range(256))
    offset = 14 + len(header) + len(palette)
    rows = b"\xff\x07\xff\x07\x02\x07\0\0" * 512
    data = b"BM" + struct.pack("<IHHI", 0, 0, 0, offset) + header + palette + rows + b"\0\1"
    assert decode_image(data).getpixel((511, 511)) == (0, 0, 7)
    taller = bytearray(data)
    taller[22:26] = struct.pack("<i", 513)
    with pytest.raises(InvalidImage, match="run-length encoded and has 512 × 513 pixels"):
        decode_image(bytes(taller))


def test_first_of_several_exif_segments_is_used():
    """Pillow would concatenate them, with a copy of the earlier ones for each."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(RED_BLUE, "JPEG", exif=exif)
    more = b"\xff\xe1" + struct.pack(">H", 2 + 6 + 60_000) + b"Exif\0\0" + bytes(60_000)
    at = data.index(b"\xff\xdb")
    image = Image.open(io.BytesIO(data[:at] + more * 3 + data[at:]))
    assert len(image.info["exif"]) > 180_000
    assert decode_image(data[:at] + more * 3 + data[at:]).size == (16, 32)

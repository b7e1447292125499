"""Drop the metadata of image files before Pillow parses it: damaged metadata must not refuse an image.

Pillow parses text, colour profiles, gamma and resolution as it opens a PNG, JPEG or TIFF, and raises if one of them is
damaged or too large. Nothing but the orientation is used of them. It hands on those of other formats as bytes.
"""

import struct
import zlib
from collections.abc import Iterator

from handler.errors import InvalidImage
from handler.tiff_metadata import drop_tiff_metadata

MAX_PARTS = 50_000  # chunks of a PNG; the largest in chunks of 8 KB has 8,000
MAX_EXIF_BYTES = 65_535  # bytes; the limit of a JPEG segment
EXIF = b"Exif\0\0"  # start of an EXIF segment
HEX_EXIF = "Raw profile type exif"  # PNG text chunk in which ImageMagick stores EXIF

PNG = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # chunks that decide the pixels
PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG = b"\xff\xd8"
JPEG_SCAN = 0xDA  # marker at which the pixels start
JFIF_BYTES, ADOBE_BYTES = 14, 12  # least bytes of the segments that tell the colour space


def drop_metadata(data: bytes) -> bytes:
    """Return a PNG, JPEG or TIFF without metadata but its orientation, and any other file as it is.

    Raises:
        InvalidImage: If it is in too many pieces.
    """
    if data.startswith(PNG):
        return _clean_png(data)
    if data.startswith(JPEG):
        return _clean_jpeg(_drop_duplicate_exif(data))
    if data.startswith(TIFF):
        return drop_tiff_metadata(data)
    return data


def _clean_png(data: bytes) -> bytes:
    depth, colour = data[24:25], data[25:26]  # of IHDR, which is the first chunk
    chunks: list[bytes | memoryview] = [PNG]
    for name, content, chunk in _png_chunks(data):
        if name == b"tRNS":
            chunks.append(_scale_transparency(chunk, content, depth, colour))
        elif name in PNG_PIXELS or len(name) < 4 or not name[0] & 0x20 or _is_orientation(name, content, chunk):
            chunks.append(chunk)
    return b"".join(chunks)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Yield name, content and all bytes of each chunk; the last one may be cut off."""
    view, start = memoryview(data), len(PNG)
    for _ in range(MAX_PARTS):
        if start >= len(data):
            return
        end = start + 12 + int.from_bytes(view[start : start + 4])
        name = bytes(view[start + 4 : start + 8])
        yield name, view[start + 8 : end - 4], view[start:end]
        start = end
        if name == b"IEND":  # bytes after it are no chunks
            return
    raise InvalidImage("The image is in too many pieces.")


def _is_orientation(name: bytes, content: memoryview, chunk: memoryview) -> bool:
    """Return True for an intact chunk with EXIF of an allowed size, under any of the names that Pillow reads."""
    if name == b"eXIf":
        return len(content) <= MAX_EXIF_BYTES and _has_checksum(chunk)
    if name not in PNG_TEXT or bytes(content[: len(HEX_EXIF) + 1]) != HEX_EXIF.encode() + b"\0":
        return False
    if len(content) > 2 * MAX_EXIF_BYTES or not _has_checksum(chunk):
        return False
    if name == b"tEXt":
        return True
    decompressor = zlib.decompressobj()
    try:  # zTXt has one more byte before the compressed text; nobody writes EXIF into iTXt
        decompressor.decompress(content[len(HEX_EXIF) + 2 :], 4 * MAX_EXIF_BYTES)
    except zlib.error:
        return False
    return name == b"zTXt" and decompressor.eof


def _has_checksum(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def _scale_transparency(chunk: memoryview, content: memoryview, depth: bytes, colour: bytes) -> memoryview:
    """Return tRNS in the scale of the pixels that Pillow decodes: it reads other depths as 8 bits, and not tRNS."""
    if colour == b"\0" and depth in (b"\2", b"\4") and len(content) == 2:  # grey
        scaled = struct.pack(">H", int.from_bytes(content) * 255 // ((1 << depth[0]) - 1) & 0xFF)
    elif colour == b"\2" and depth == b"\x10" and len(content) == 6:  # RGB, of which Pillow keeps the high bytes
        scaled = struct.pack(">3H", *(value >> 8 for value in struct.unpack(">3H", content)))
    else:
        return chunk
    if not _has_checksum(chunk):
        return chunk
    name = b"tRNS" + scaled
    return memoryview(struct.pack(">I", len(scaled)) + name + struct.pack(">I", zlib.crc32(name)))


def _clean_jpeg(data: bytes) -> bytes:
    """Return a JPEG without its metadata segments; from the first irregular byte on as it is."""
    kept, start = [data[:2]], 2
    for _ in range(MAX_PARTS):
        marker = data[start + 1 : start + 2]
        size = int.from_bytes(data[start + 2 : start + 4])
        if data[start : start + 1] != b"\xff" or not marker or not _has_size(marker[0]) or size < 2:
            break
        segment = data[start : start + 2 + size]
        if len(segment) < 2 + size:
            break
        if not _is_metadata(marker[0], segment[4:]):
            kept.append(segment)
        start += 2 + size
    return b"".join([*kept, data[start:]])


def _has_size(marker: int) -> bool:
    """Return True for a marker before the scan that starts a segment with its size."""
    return 0xC0 <= marker <= 0xFE and not 0xD0 <= marker <= JPEG_SCAN


def _is_metadata(marker: int, content: bytes) -> bool:
    """Return True for a segment that decides neither the pixels nor their orientation."""
    if marker == 0xE0:
        return len(content) < JFIF_BYTES
    if marker == 0xE1:
        return not content.startswith(EXIF)
    if marker == 0xEE:
        return len(content) < ADOBE_BYTES
    return 0xE2 <= marker <= 0xEF or marker == 0xFE  # further APPn, and comments


def _drop_duplicate_exif(data: bytes) -> bytes:
    """Return a JPEG with its first EXIF segment only: Pillow concatenates them and copies all of it for each."""
    head, mark, rest = data.partition(EXIF)
    return head + mark + rest.replace(EXIF, bytes(len(EXIF))) if EXIF in rest else data

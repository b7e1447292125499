"""Limit the directory of a TIFF file to the tags that decide its pixels and its orientation.

Pillow and libtiff parse all tags as they open a file, and fail on damaged ones, even if no pixel depends on them.
TIFF 6.0, section 2 describes the directory.
"""

import struct

from handler.errors import InvalidImage

MAX_ENTRIES = 4096  # tags of a directory; usual ones have 20
MAX_PARTS = 200_000  # strips or tiles: 50 megapixels in tiles of 16 × 16
PIXEL_TAGS = frozenset(
    {
        *(256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
        *(338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
    }
)
BYTE_TYPES = (1, 2, 6, 7)  # BYTE, ASCII, SBYTE, UNDEFINED: read as they are, without an object for each value
UNUSED_TAG = 65_001  # private


def drop_tiff_metadata(data: bytes) -> bytes:
    """Return a TIFF of its first page only, without other tags than `PIXEL_TAGS`; damaged ones as they are.

    Raises:
        InvalidImage: If the directory has too many tags, or a tag too many values.
    """
    order = "<" if data[:2] == b"II" else ">"
    try:
        is_big = struct.unpack_from(f"{order}H", data, 2) == (43,)
        offset, number, entry = ("Q", "Q", "HHQ8s") if is_big else ("L", "H", "HHL4s")
        (start,) = struct.unpack_from(order + offset, data, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + number, data, start)
        if count > MAX_ENTRIES:
            raise InvalidImage("The image is in too many pieces.")
        position, size = start + struct.calcsize(order + number), struct.calcsize(order + entry)
        cleaned = bytearray(data)
        for at in range(position, position + count * size, size):
            tag, kind, values, _ = struct.unpack_from(order + entry, data, at)
            if tag not in PIXEL_TAGS:
                struct.pack_into(order + entry, cleaned, at, UNUSED_TAG, BYTE_TYPES[0], 0, b"")
            elif values > MAX_PARTS and kind not in BYTE_TYPES:
                raise InvalidImage("The image is in too many pieces.")
        struct.pack_into(order + offset, cleaned, position + count * size, 0)  # no further page
    except struct.error:  # cut off: Pillow reports it
        return data
    return bytes(cleaned)

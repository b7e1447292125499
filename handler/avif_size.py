"""Pixels that decoding an AVIF takes, by the headers of its AV1 streams.

The size that an AVIF states can be smaller than that of its stream: libavif decodes the whole frame, up to 268
megapixels, and scales it. AV1 Image File Format 1.1, section 2; AV1 Bitstream Specification, section 5.5 (sequence
header OBU); ISO/IEC 14496-12, section 8.11.3 (iloc).
"""

from collections.abc import Iterator

MAX_ITEMS = 4096  # images, tiles and metadata of a file
SEQUENCE_HEADER = 1  # OBU type
AVIF_BRAND, SEQUENCE_BRAND = b"avif", b"avis"


def use_still_image(data: bytes) -> bytes:
    """Return an animated AVIF with the brand of a still one: libavif then decodes its primary image, not its track."""
    is_sequence = data[4:8] == b"ftyp" and data[8:12] == SEQUENCE_BRAND
    return data[:8] + AVIF_BRAND + data[12:] if is_sequence else data


def av1_frame_sizes(data: bytes) -> list[int]:
    """Return width × height in the sequence header of each item of a file that has one.

    Raises:
        ValueError: If a box or a header is damaged, or no item has a sequence header.
    """
    meta = _box(data, b"meta")[4:]
    items = _box(meta, b"iloc")
    idat = _box(meta, b"idat", required=False)
    sizes = [size for item in _items(items, data, idat) if (size := _frame_size(item))]
    if not sizes:
        raise ValueError("The file has no AV1 stream.")
    return sizes


def _box(data: bytes, name: bytes, *, required: bool = True) -> bytes:
    """Return the content of the first box of a name among sibling boxes."""
    start = 0
    while start + 8 <= len(data):
        size, head = int.from_bytes(data[start : start + 4]), 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16]), 16
        size = size or len(data) - start
        if size < head:
            break
        if data[start + 4 : start + 8] == name:
            return data[start + head : start + size]
        start += size
    if required:
        raise ValueError(f"The file has no box {name!r}.")
    return b""


def _items(iloc: bytes, data: bytes, idat: bytes) -> Iterator[bytearray]:
    """Yield the content of each item.

    Raises:
        ValueError: If items share bytes, so that together they have more than twice those of the file.
    """
    version, reader = iloc[0], _Bits(iloc[4:])
    offset_size, length_size, base_size, index_size = (8 * reader.read(4) for _ in range(4))
    count = reader.read(32 if version == 2 else 16)
    remaining = 2 * len(data)  # bytes
    if count > MAX_ITEMS or version > 2:
        raise ValueError("The file has too many items.")
    for _ in range(count):
        reader.read(32 if version == 2 else 16)
        source = (data, idat)[reader.read(16) & 1] if version else data
        reader.read(16)
        base, item = reader.read(base_size), bytearray()
        for _ in range(reader.read(16)):
            if version:
                reader.read(index_size)
            offset, length = base + reader.read(offset_size), reader.read(length_size)
            item += source[offset : offset + (length or len(data))]  # 0 is the rest of the file
            if len(item) > remaining:
                raise ValueError("The items have more bytes than the file.")
        remaining -= len(item)
        yield item


def _frame_size(item: bytes | bytearray) -> int:
    """Return the pixels of the largest frame of an AV1 stream; 0 if its first OBUs are no AV1 stream's."""
    start, largest = 0, 0
    while start < len(item):
        header = item[start]
        if header & 0x81:  # bits that must be zero: another kind of item
            return largest
        start += 2 if header & 4 else 1
        size, shift = len(item) - start, 0
        if header & 2:
            size = 0
            while start < len(item):
                byte = item[start]
                start, size, shift = start + 1, size | (byte & 0x7F) << shift, shift + 7
                if not byte & 0x80:
                    break
        if header >> 3 & 15 == SEQUENCE_HEADER:
            largest = max(largest, _sequence_pixels(_Bits(item[start : start + size])))
        start += size
    return largest


def _sequence_pixels(bits: "_Bits") -> int:
    """Return max_frame_width × max_frame_height of a sequence header."""
    bits.read(4)  # seq_profile, still_picture
    if bits.read(1):  # reduced_still_picture_header
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return (bits.read(width_bits) + 1) * (bits.read(height_bits) + 1)


def _skip_operating_points(bits: "_Bits") -> None:
    delay_bits = 0
    if bits.read(1):  # timing_info_present_flag
        bits.read(64)
        if bits.read(1):  # equal_picture_interval, followed by an Exp-Golomb code
            zeros = 0
            while not bits.read(1):
                zeros += 1
            bits.read(zeros)
        if bits.read(1):  # decoder_model_info_present_flag
            delay_bits = bits.read(5) + 1
            bits.read(42)
    has_display_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:  # seq_level_idx, with a tier
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_display_delay and bits.read(1):
            bits.read(4)


class _Bits:
    """Reads integers of some bits, the most significant first."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.data, self.position = data, 0

    def read(self, count: int) -> int:
        """Return the next `count` bits.

        Raises:
            ValueError: If there are not so many.
        """
        end = self.position + count
        if end > 8 * len(self.data):
            raise ValueError("The data end early.")
        first, last = self.position // 8, (end + 7) // 8
        self.position = end
        return int.from_bytes(self.data[first:last]) >> (8 * last - end) & ((1 << count) - 1)

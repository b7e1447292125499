"""The pixels of AV1 frames, and AVIF files that state others."""

import struct
from io import BytesIO

import pytest
from PIL import Image

from handler.avif_size import av1_frame_sizes, use_still_image
from handler.errors import TooManyPixels
from handler.image import decode_image


def avif(size: tuple[int, int], mode: str = "RGB", **options) -> bytes:
    stream = BytesIO()
    Image.new(mode, size).save(stream, "AVIF", speed=10, quality=10, **options)
    return stream.getvalue()


@pytest.mark.parametrize(("mode", "count"), [("RGB", 1), ("RGBA", 2)])
def test_av1_frame_sizes_has_the_pixels_of_each_item(mode, count):
    assert av1_frame_sizes(avif((320, 200), mode)) == [64_000] * count


def test_avif_whose_frames_exceed_the_size_that_it_states_is_rejected():
    data = avif((800, 600))
    at = data.index(b"ispe") + 8
    lying = data[:at] + struct.pack(">II", 64, 64) + data[at + 8 :]
    with pytest.raises(TooManyPixels, match="frames of more than the 400000 pixels"):
        decode_image(lying, max_pixels=400_000)  # 480,000 are in the stream, 4,096 in the header


def test_animated_avif_gives_its_primary_image():
    data = avif((64, 48), save_all=True, append_images=[Image.new("RGB", (64, 48), "red")])
    assert data[8:12] == b"avis"
    assert use_still_image(data)[8:12] == b"avif"
    assert decode_image(data).size == (64, 48)


@pytest.mark.parametrize("length", [0, 12, 60])
def test_av1_frame_sizes_of_a_truncated_file_raises(length):
    with pytest.raises(ValueError, match="The file has no"):
        av1_frame_sizes(avif((320, 200))[:length])


def test_av1_frame_sizes_of_items_that_share_bytes_raises():
    """A file of a few KB could state gigabytes."""
    data = bytearray(avif((320, 200)))
    at = data.index(b"iloc") + 4 + 4 + 2 + 2  # version and flags, sizes of fields, number of items
    # Of version 0: item 1, data reference 0, number of extents; then offset and length of the one extent.
    assert data[at : at + 6] == b"\0\1\0\0\0\1"
    data[at + 4 : at + 6] = b"\xff\xff"
    with pytest.raises(ValueError, match=r"more bytes than the file|end early"):
        av1_frame_sizes(bytes(data))

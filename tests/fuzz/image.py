"""Fuzz target `image`: any bytes are an image, or are refused with a request error."""

from handler.errors import RequestError
from handler.image import decode_image

MAX_PIXELS = 1_000_000  # small, so that a run tries many files instead of few large ones


def target(data: bytes) -> None:
    """Decode a file, in full and reduced.

    Raises:
        Exception: Any but `RequestError` is a crash.
    """
    sizes = []
    for min_side in (None, 64):
        try:
            image = decode_image(data, MAX_PIXELS, min_side)
        except RequestError as error:
            if error.code >= 500:
                raise
            sizes.append(None)
            continue
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= MAX_PIXELS
        sizes.append(image.size)
    if None not in sizes:
        assert min(sizes[1]) >= min(64, *sizes[0])  # not reduced below the minimum

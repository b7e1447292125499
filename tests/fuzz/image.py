"""Any bytes are a picture, or refused with one of the handler's own errors."""

from handler.errors import RequestError
from handler.image import decode_image

MAX_PIXELS = 1_000_000  # small, so that a run tries many files and not few large ones


def target(data: bytes) -> None:
    """Decodes a file whole, and down to what is enough.

    Raises:
        Exception: any but `RequestError` is a crash.
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
        assert min(sizes[1]) >= min(64, *sizes[0])  # still enough

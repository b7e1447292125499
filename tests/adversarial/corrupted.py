"""Images that are truncated, or have flipped bits."""

import random
from functools import partial

from tests.adversarial.case import EITHER, REFUSED, ImageCase
from tests.adversarial.image_parts import encoded, noise, small_image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
SHARES = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
FLIPPED = 12  # images of each format


def cut(fmt: str, share: float) -> bytes:
    data = small_image(fmt)
    return data[: max(1, int(len(data) * share))]


def flipped(fmt: str, seed: int) -> bytes:
    """Return a file with up to 40 flipped bits; for odd seeds in the header only."""
    source, data = random.Random(seed), bytearray(small_image(fmt))
    reach = 300 if seed % 2 else len(data)
    for _ in range(source.randint(1, 40)):
        data[source.randrange(min(reach, len(data)))] ^= 1 << source.randrange(8)
    return bytes(data)


def shuffled(seed: int) -> bytes:
    """Return a progressive JPEG whose 100-byte pieces after the header are shuffled."""
    data = encoded(noise(), "JPEG", progressive=True)
    pieces = [data[at : at + 100] for at in range(300, len(data), 100)]
    random.Random(seed).shuffle(pieces)
    return data[:300] + b"".join(pieces)


CORRUPTED = [
    *(
        # A JPEG or a PNG is readable without its last bytes, which hold no pixel.
        ImageCase("cut off", f"{fmt}, {share:.0%} of it", partial(cut, fmt, share), REFUSED if share < 0.99 else EITHER)
        for fmt in FORMATS
        for share in SHARES
    ),
    *(
        ImageCase("bits flipped", f"{fmt}, {seed}", partial(flipped, fmt, seed), EITHER)
        for fmt in FORMATS
        for seed in range(FLIPPED)
    ),
    *(ImageCase("bits flipped", f"JPEG in disorder, {seed}", partial(shuffled, seed), EITHER) for seed in range(4)),
]

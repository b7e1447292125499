"""A batch cut into a few sizes, so that nothing is compiled or prepared anew under load."""

import torch

from handler.backends.engine import Encode

BUCKETS = (256, 128, 64, 32, 16, 8, 4, 2, 1)


def by_buckets(encode: Encode, largest: int) -> Encode:
    """The same function of a batch of any size, which it is given in parts of the sizes `BUCKETS`, up to `largest`."""

    def encode_all(pixels: torch.Tensor) -> torch.Tensor:
        parts = [encode(part) for part in pixels.split(buckets(len(pixels), largest))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return encode_all


def buckets(images: int, largest: int) -> list[int]:
    """The sizes that add up to a number of images, the largest first: 13 = 8 + 4 + 1."""
    sizes = []
    for size in BUCKETS:
        if size <= largest:
            sizes += [size] * ((images - sum(sizes)) // size)
    return sizes

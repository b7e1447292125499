"""Images that a split shares with a training split, which make its scores too high."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from eval.data import CaptionedImage

MAX_COMPARED = 20_000  # images of a split up to which the content of files is compared
COCO_NAME = re.compile(r"(?:^|_)(\d{12})$")  # 000000000042 in 2017, COCO_val2014_000000000042 in 2014


def shared_images(train: Sequence[CaptionedImage], other: Sequence[CaptionedImage]) -> list[CaptionedImage]:
    """Return the images of `other` that are in `train`.

    Two images are the same if their files are named after the same COCO ID, which is the same in COCO 2014, 2017 and
    Karpathy's splits; or if they have the same path; or, in splits of at most `MAX_COMPARED` images, if their files
    have the same content.

    Args:
        train: A training split. Files may be missing.
        other: Another split. Files may be missing.
    """
    names = {_name(image) for image in train}
    shared = {image.id for image in other if _name(image) in names}
    if max(len(train), len(other)) <= MAX_COMPARED:
        by_size: dict[int, list[Path]] = defaultdict(list)
        for image in train:
            by_size[_size(image.path)].append(image.path)
        for image in other:
            candidates = by_size.get(_size(image.path), []) if image.id not in shared and _size(image.path) else []
            if candidates and _sha256(image.path) in {_sha256(path) for path in candidates}:
                shared.add(image.id)
    return [image for image in other if image.id in shared]


def _name(image: CaptionedImage) -> str:
    """Return what identifies an image without its content: its COCO ID, or its path."""
    match = COCO_NAME.search(image.path.stem)
    return match[1] if match and int(match[1]) == image.id else str(image.path.resolve())


def _size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if it is missing."""
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()

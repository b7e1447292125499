"""The image and its reference captions that all commands read."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CaptionedImage:
    """An image and its reference captions, as in the file that names them.

    Attributes:
        id: Number of the image in results files.
        path: File of the image.
        captions: At least one caption.
    """

    id: int
    path: Path
    captions: tuple[str, ...]

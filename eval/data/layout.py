"""What a layout of files has to provide to be read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.data.entries import SplitEntries


class Layout(ABC):
    """Captions and images in files of a known form.

    Attributes:
        name: Name of the layout, for messages.
        source: File or directory that lists the splits, for messages.
    """

    name: str
    source: Path

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """Return the names of the splits; an alias is not listed."""

    @abstractmethod
    def has(self, split: str) -> bool:
        """Return True if there is a split of this name or alias."""

    @abstractmethod
    def read(self, split: str) -> SplitEntries[Any]:
        """Read the images and captions of a split; errors as in `SplitEntries`."""

    @abstractmethod
    def find_image(self, split: str, name: str) -> Path:
        """Return the file of an image, which may be missing.

        Raises:
            ValueError: If several files have this name.
        """

"""Find image files by name in a directory and its subdirectories."""

import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path

DEPTH = 2  # levels of subdirectories, e.g. flickr30k_images/flickr30k_images/


class ImagesBelow:
    """The files of a directory and two levels of its subdirectories, listed once at the first look.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, name: str) -> Path:
        """Return the file of this name; if there is none, the path at which it was expected.

        Args:
            name: File name, or path relative to the directory or to its `images/`.

        Raises:
            ValueError: If several files have this name.
        """
        path = self.root / name
        if "/" in name:
            return path if path.exists() else self.root / "images" / name
        directories = self._directories.get(name, [])
        if len(directories) > 1:
            places = " and ".join(map(str, directories[:2]))
            raise ValueError(f"The image {name} is both in {places}: name its directory in the table, or remove one.")
        return directories[0] / name if directories else path

    @cached_property
    def _directories(self) -> dict[str, list[Path]]:
        """Directories by the names of their files."""
        directories: dict[str, list[Path]] = defaultdict(list)

        def add_files(directory: Path, depth: int) -> None:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if not entry.is_dir():
                        directories[entry.name].append(directory)
                    elif depth:
                        add_files(directory / entry.name, depth - 1)

        add_files(self.root, DEPTH)
        return directories

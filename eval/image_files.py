"""Find image files by paths, directories and patterns."""

import glob
from collections.abc import Iterable
from pathlib import Path

from handler.image_suffixes import IMAGE_SUFFIXES


def find_images(arguments: Iterable[str]) -> list[str]:
    """List the image files that arguments name.

    Args:
        arguments: Files (taken as they are), directories (searched recursively by suffix) and glob patterns.

    Returns:
        Paths in the order of the arguments, without duplicates.

    Raises:
        FileNotFoundError: If an argument matches no file.
    """
    found: dict[str, None] = {}
    for argument in arguments:
        if Path(argument).is_dir():
            paths = sorted(str(path) for path in Path(argument).rglob("*") if _is_image(path))
        elif Path(argument).exists():
            paths = [argument]
        else:  # not Path.glob, which takes no absolute pattern
            matches = glob.glob(argument, recursive=True)  # noqa: PTH207
            paths = sorted(path for path in matches if Path(path).is_file())
        if not paths:
            raise FileNotFoundError(f"No image found at {argument}.")
        found |= dict.fromkeys(paths)
    return list(found)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()

"""The COCO layout: `annotations/captions_<split>.json`, and images in `<split>/`, `images/<split>/` or `images/`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.data.entries import SplitEntries
from eval.data.layout import Layout
from eval.data.text import entry_line, parse_json, read_text

Position = tuple[str, int]  # list in the file, index of the entry


class CocoLayout(Layout):
    """Annotations in the format of COCO Captions (Chen et al. 2015, https://arxiv.org/abs/1504.00325).

    File names are relative to the directory of the images. Names that contain a directory are relative to the data
    directory, since the Karpathy splits use images of two directories.
    """

    name = "COCO layout"

    def __init__(self, root: Path) -> None:
        self.root, self.source = root, root / "annotations"
        self._directories: dict[str, Path] = {}

    def splits(self) -> Sequence[str]:
        """Return the names in `captions_<name>.json`."""
        return sorted(path.stem.removeprefix("captions_") for path in self.source.glob("captions_*.json"))

    def has(self, split: str) -> bool:
        """Return True if there are annotations of this name."""
        return self._annotations(split).is_file()

    def read(self, split: str) -> SplitEntries[Any]:
        """Read the annotations of a split."""
        path = self._annotations(split)
        content = parse_json(path, read_text(path))
        entries = SplitEntries[Position](path, lambda at: f"line {entry_line(read_text(path), *at)}, {at[0]}[{at[1]}]")
        for key in ("images", "annotations"):
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                raise ValueError(f"{path} is not in the COCO layout: it has no list '{key}'.")
        for i, image in enumerate(content["images"]):
            at = ("images", i)
            entries.add_image(_get(entries, image, "id", at), _get(entries, image, "file_name", at), at)
        ids: set[Any] = set()
        for i, annotation in enumerate(content["annotations"]):
            at = ("annotations", i)
            image_id, caption = (_get(entries, annotation, key, at) for key in ("image_id", "caption"))
            number = annotation.get("id")
            if isinstance(number, int) and number in ids:
                raise entries.error(at, f"the annotation id {number} occurs twice.")
            ids.add(number)
            entries.add_caption(image_id, caption, at)
        return entries

    def find_image(self, split: str, name: str) -> Path:
        """Return the file of an image."""
        if "/" in name:
            return first_existing(self.root / name, self.root / "images" / name)
        if split not in self._directories:
            self._directories[split] = self._image_directory(split)
        return self._directories[split] / name

    def _annotations(self, split: str) -> Path:
        return self.source / f"captions_{split}.json"

    def _image_directory(self, split: str) -> Path:
        """Return the directory of the images; without symbolic links, git writes one as a text file."""
        directory = self.root / split
        if directory.is_file() and directory.stat().st_size < 256:
            target = directory.read_text(encoding="utf-8", errors="replace").strip()
            if target in {path.name for path in self.root.iterdir() if path.is_dir()}:
                return self.root / target
        return first_existing(directory, self.root / "images" / split, self.root / "images")


def first_existing(*paths: Path) -> Path:
    """Return the first path that exists, or the first one if none does."""
    return next((path for path in paths if path.exists()), paths[0])


def _get(entries: SplitEntries[Position], entry: Any, key: str, at: Position) -> Any:  # noqa: ANN401
    if not isinstance(entry, dict) or key not in entry:
        raise entries.error(at, f"the entry has no '{key}'.")
    return entry[key]

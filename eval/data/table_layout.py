"""A table of captions as a data set, and its splits."""

import hashlib
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from eval.data.entries import SplitEntries
from eval.data.images_below import ImagesBelow
from eval.data.layout import Layout
from eval.data.tables import Row, read_table
from eval.data.text import read_text

ALIASES = {"validation": "val", "valid": "val", "dev": "val", "training": "train"}
STANDARD = ("train", "val", "test")
TENTHS = {0: "val", 1: "test"}  # of the images, by a digest of their name; the others are train


class TableLayout(Layout):
    """A table that lists file names and captions, one caption or several a row.

    The split of an image is, in this order: a column `split`; a list of file names `<split>.txt` or
    `*.<split>Images.txt` beside the table (as Flickr8k has); the directory in its file name; else 80 % of the images
    are `train`, 10 % `val` and 10 % `test`, by a digest of the file name, which stays the same when images are added.

    Args:
        path: The table.
        is_split: Whether the table is one split, as in `<split>/metadata.jsonl`.
    """

    def __init__(self, path: Path, *, is_split: bool = False) -> None:
        self.source = path
        self.name = f"table {path.name}"
        self._is_split = is_split
        self._images_below = ImagesBelow(path.parent)

    def splits(self) -> Sequence[str]:
        """Return the names of the splits, and `all`."""
        if self._is_split:
            return [self.source.parent.name]
        names = {split for row in self._rows if (split := self._split_of(row))}
        return [*sorted(names | self._lists.keys()), "all"]

    def has(self, split: str) -> bool:
        """Return True if there is a split of this name or alias."""
        return self._is_split or ALIASES.get(split, split) in self.splits()

    def read(self, split: str) -> SplitEntries[Any]:
        """Read the rows of a split; the id of an image is in `image_id`, or else its number in the table from 1."""
        split = ALIASES.get(split, split)
        entries = SplitEntries[int](self.source, lambda line: f"line {line}")
        images: dict[Any, tuple[Any, str | None]] = {}  # id and split by file name
        for row in self._rows:
            is_new = row.name not in images
            of_split = self._split_of(row) if is_new or row.split is not None else images[row.name][1]
            added = (len(images) + 1 if row.image_id is None else row.image_id, of_split)
            image_id, first_split = images.setdefault(row.name, added)
            if row.image_id not in (None, image_id):
                raise entries.error(row.line, f"the image '{row.name}' has the ids {image_id} and {row.image_id}.")
            if of_split != first_split:
                raise entries.error(row.line, f"the image '{row.name}' is both in {first_split} and in {of_split}.")
            if not (self._is_split or split == "all" or of_split == split):
                continue
            if is_new:
                entries.add_image(image_id, row.name, row.line)
            for caption in row.captions:
                entries.add_caption(image_id, caption, row.line)
            entries.counts["rows that lacked a separator"] += row.mended
        for name in self._lists.get(split, ()):
            entries.counts["images of the list without a caption"] += name not in images
        return entries

    def find_image(self, split: str, name: str) -> Path:  # noqa: ARG002
        """Return the file of an image, in the directory of the table or anywhere below."""
        return self._images_below.find(name)

    @cached_property
    def _rows(self) -> list[Row]:
        return list(read_table(self.source))

    @cached_property
    def _lists(self) -> dict[str, Collection[str]]:
        """File names by split, from the lists beside the table."""
        lists: dict[str, Collection[str]] = {}
        for path in sorted(self.source.parent.glob("*.txt")):
            name = path.stem.rsplit(".", 1)[-1].removesuffix("Images")
            split = ALIASES.get(name, name)
            if split in STANDARD and path != self.source:
                lists[split] = frozenset(line.strip() for line in read_text(path).split("\n") if line.strip())
        return lists

    def _split_of(self, row: Row) -> str | None:
        if row.split is not None:
            return ALIASES.get(row.split, row.split)
        if self._lists:
            return next((split for split, names in self._lists.items() if row.name in names), None)
        directories = (ALIASES.get(part, part) for part in PurePosixPath(str(row.name)).parts[:-1])
        if split := next((name for name in directories if name in STANDARD), None):
            return split
        digest = hashlib.sha256(PurePosixPath(str(row.name)).name.encode()).digest()
        return TENTHS.get(int.from_bytes(digest[:4]) % 10, "train")

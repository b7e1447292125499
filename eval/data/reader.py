"""Read a split of a data set in any of the layouts, and say what was found."""

import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from eval.data.captioned_image import CaptionedImage
from eval.data.coco import CocoLayout
from eval.data.entries import SplitEntries
from eval.data.karpathy import KarpathyLayout
from eval.data.layout import Layout
from eval.data.table_layout import TableLayout
from eval.data.tables import is_table

NUM_NAMED = 3  # missing images that an error names


def read_split(
    root: Path, split: str, *, require_images: bool = True, limit: int | None = None
) -> list[CaptionedImage]:
    """Read the images of a split in the order of the file that lists them, without those that have no caption.

    What was found is printed to standard error: layout, images, captions, and what is odd.

    Args:
        root: Directory of the data, or the file that lists images and captions.
        split: Name, e.g. `train2017` or `val`; for a split of another data set, its path relative to `root`, e.g.
            `../coco/train2017`.
        require_images: Whether the image files must exist; the captions alone are enough for scoring.
        limit: Number of images to read, the first ones of the split; default: all.

    Raises:
        FileNotFoundError: If there is no such split, or image files are missing; the message names some.
        ValueError: If an entry is broken; the message names file and line.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"The number of images must be at least 1, not {limit}.")
    if not root.is_file():
        root, split = root / Path(split).parent, Path(split).name
    layout = find_layout(root, split)
    entries = layout.read(split)
    images = [
        CaptionedImage(image_id, layout.find_image(split, entries.names[image_id]), captions)
        for image_id, captions in entries.captioned().items()
    ][:limit]
    if require_images:
        _check_files(entries.source, images)
    _say(f"{root / split}: {describe(layout, entries, images)}")
    return images


def load_training_split(data: Path, split: str | None) -> Sequence[CaptionedImage]:
    """Read the captions of the training split, whose image files may be missing; empty if `split` is None."""
    return read_split(data, split, require_images=False) if split else ()


def find_layout(root: Path, split: str) -> Layout:
    """Return the layout of the data that has a split.

    Raises:
        FileNotFoundError: If there is no such split; the message lists those that exist.
        ValueError: If several tables could hold it.
    """
    found = []
    for layout in _layouts(root, split):
        if layout.has(split):
            return layout
        found.append(f"{layout.source} has {', '.join(layout.splits()) or 'none'}")
    if not root.exists():
        raise FileNotFoundError(f"There is no split '{split}' in {root}: {root} is missing.")
    if not found:
        known = "annotations/captions_<split>.json, dataset_*.json, captions.txt, results.csv, *.csv, *.jsonl"
        raise FileNotFoundError(f"There is no split '{split}' in {root}: it has none of {known}.")
    raise FileNotFoundError(f"There is no split '{split}' in {root}. Existing splits: {'; '.join(found)}.")


def describe(layout: Layout, entries: SplitEntries[Any], images: Sequence[CaptionedImage]) -> str:
    """Describe what a split holds in one line."""
    counts = sorted(len(image.captions) for image in images)
    each = f"{counts[0]} each" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]} each"
    found = f"{len(images):,} images with {sum(counts):,} captions ({each}), {layout.name}"
    odd = entries.describe_counts()
    return f"{found}; {odd}." if odd else f"{found}."


def _layouts(root: Path, split: str) -> Iterator[Layout]:
    """Yield the layouts of the data, the most specific first."""
    if root.is_file():
        yield _layout_of_file(root)
        return
    if (root / "annotations").is_dir():
        yield CocoLayout(root)
    for path in sorted(root.glob("dataset_*.json")):
        yield KarpathyLayout(path)
    for directory in (root / split, root):
        if tables := _tables(directory):
            if len(tables) > 1:
                names = ", ".join(path.name for path in tables)
                raise ValueError(f"{directory} has several tables of captions ({names}): name one, DATA={tables[0]}.")
            yield TableLayout(tables[0], is_split=directory != root)


def _layout_of_file(path: Path) -> Layout:
    if path.suffix.lower() == ".json":
        return KarpathyLayout(path)
    if not is_table(path):
        raise ValueError(f"{path} is not a table: its first line needs the columns file_name and caption.")
    return TableLayout(path)


def _tables(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if is_table(path)) if directory.is_dir() else []


def _check_files(source: Path, images: Sequence[CaptionedImage]) -> None:
    missing = [str(image.path) for image in images if not image.path.is_file()]
    if missing:
        named = ", ".join(missing[:NUM_NAMED]) + (", …" if len(missing) > NUM_NAMED else "")
        raise FileNotFoundError(
            f"{source} names {len(images):,} captioned images, of which {len(missing):,} are missing: {named}. "
            "Copy them there, or remove them from the file."
        )


@cache
def _say(text: str) -> None:
    """Print a line once in a process, and in the first one of several that train together."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)

"""Captioned images in the COCO layout: `annotations/captions_<split>.json` and a directory `<split>/` of images."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CaptionedImage:
    """An image and its reference captions, as in the annotations file."""

    id: int
    path: Path
    captions: tuple[str, ...]


def read_split(root: Path, split: str, *, require_images: bool = True) -> list[CaptionedImage]:
    """Read the images of a split in the order of the annotations file, without those that have no caption.

    File names are relative to the directory of the split. Names that contain a directory are relative to `root`, since
    Karpathy splits use images of two directories.

    Args:
        root: Directory that contains `annotations/`.
        split: Name, e.g. `train2017` or `val`; for a split of another data set, its path relative to `root`, e.g.
            `../coco/train2017`.
        require_images: Whether the image files must exist; the captions alone are enough for scoring.

    Raises:
        FileNotFoundError: If the annotations or an image file is missing; the message names it.
        ValueError: If the annotations are not in the COCO layout or name a file outside `root`.
    """
    root, split = root / Path(split).parent, Path(split).name
    annotations = root / "annotations" / f"captions_{split}.json"
    if not annotations.is_file():
        splits = sorted(path.stem.removeprefix("captions_") for path in annotations.parent.glob("captions_*.json"))
        raise FileNotFoundError(
            f"There is no split '{split}' in {root}: {annotations} is missing. "
            f"Existing splits: {', '.join(splits) or 'none'}."
        )
    names, captions = _read_annotations(annotations)
    directory = _image_directory(root, split)
    images = []
    for image_id, name in names.items():
        parts = name.split("/")
        if "\\" in name or not {"", ".", ".."}.isdisjoint(parts):
            raise ValueError(f"{annotations} names '{name}', which is not a plain file name or a path below {root}.")
        path = directory / name if len(parts) == 1 else root / name
        if require_images and not path.is_file():
            raise FileNotFoundError(f"{annotations} names {path}, which is missing.")
        if image_id in captions:
            images.append(CaptionedImage(image_id, path, tuple(captions[image_id])))
    if not images:
        raise ValueError(f"{annotations} has no captioned image.")
    return images


def _image_directory(root: Path, split: str) -> Path:
    """Return `root/split`, or the directory that it names: without symbolic links, git writes one as a text file."""
    directory = root / split
    if directory.is_file() and directory.stat().st_size < 256:
        target = directory.read_text(encoding="utf-8", errors="replace").strip()
        if target in {path.name for path in root.iterdir() if path.is_dir()}:
            return root / target
    return directory


def load_training_split(data: Path, split: str | None) -> Sequence[CaptionedImage]:
    """Read the captions of the training split, whose image files may be missing; empty if `split` is None."""
    return read_split(data, split, require_images=False) if split else ()


def _read_annotations(path: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Read file names and captions by image id."""
    captions: dict[int, list[str]] = defaultdict(list)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for annotation in content["annotations"]:
            captions[annotation["image_id"]].append(_string(annotation, "caption"))
        names = {image["id"]: _string(image, "file_name") for image in content["images"]}
        if len(names) < len(content["images"]):
            raise ValueError("duplicate image id")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not in the COCO layout: {error!r}.") from error
    return names, captions


def _string(entry: dict[str, Any], name: str) -> str:
    value = entry[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not a string in {entry}")
    return value

"""Reads captioned pictures in COCO's layout: `annotations/captions_<split>.json` beside a folder `<split>/`."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CaptionedImage:
    """A picture and its captions, as they stand in the file."""

    id: int
    path: Path
    captions: tuple[str, ...]


def read_split(root: Path, split: str, *, pictures: bool = True) -> list[CaptionedImage]:
    """The pictures of a split in the file's order; those without a caption are left out.

    A picture's name is relative to the split's folder, or, with folders before it, to `root`: a split of Karpathy's
    has pictures in two folders.

    Args:
        root: the folder that holds `annotations/`.
        split: such as `train2017` or `val`; one of another folder with its way there from `root`, `../coco/train2017`.
        pictures: whether they have to be there, and not their captions alone.

    Raises:
        FileNotFoundError: the annotations or a picture is missing; the message names it.
        ValueError: the annotations are not in COCO's layout, or name a picture outside `root`.
    """
    root, split = root / Path(split).parent, Path(split).name
    annotations = root / "annotations" / f"captions_{split}.json"
    if not annotations.is_file():
        found = ", ".join(
            sorted(path.stem.removeprefix("captions_") for path in annotations.parent.glob("captions_*.json"))
        )
        raise FileNotFoundError(
            f"There is no split '{split}' in {root}: {annotations} is missing. Splits found there: {found or 'none'}."
        )
    captions: dict[int, list[str]] = defaultdict(list)
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        for annotation in content["annotations"]:
            captions[annotation["image_id"]].append(_text(annotation, "caption"))
        names = {image["id"]: _text(image, "file_name") for image in content["images"]}
        if len(names) < len(content["images"]):
            raise ValueError("an image's id stands there twice")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{annotations} is not in COCO's layout: {error!r}.") from error
    images = []
    for index, name in names.items():
        folders = name.split("/")
        if "\\" in name or not {"", ".", ".."}.isdisjoint(folders):
            raise ValueError(f"{annotations} names '{name}', which is no plain file name and no path below {root}.")
        path = root / split / name if len(folders) == 1 else root / name
        if pictures and not path.is_file():
            raise FileNotFoundError(f"{annotations} names {path}, which is missing.")
        if index in captions:
            images.append(CaptionedImage(index, path, tuple(captions[index])))
    if not images:
        raise ValueError(f"{annotations} holds no captioned picture.")
    return images


def _text(entry: dict, name: str) -> str:
    if not isinstance(entry[name], str):
        raise TypeError(f"{name} is no text in {entry}")
    return entry[name]

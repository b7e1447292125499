"""Karpathy's files: `dataset_coco.json`, `dataset_flickr8k.json` and `dataset_flickr30k.json`."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.data.entries import SplitEntries
from eval.data.images_below import ImagesBelow
from eval.data.layout import Layout
from eval.data.text import entry_line, parse_json, read_text

TRAIN = ("train", "restval")  # restval is trained on, as is usual


class KarpathyLayout(Layout):
    """A file of all splits (Karpathy and Fei-Fei 2015, https://arxiv.org/abs/1412.2306).

    The caption is the raw sentence, not Karpathy's tokens. The id of an image is its `cocoid`, or else its `imgid`.

    Args:
        path: The file.
    """

    name = "Karpathy's layout"

    def __init__(self, path: Path) -> None:
        self.source = path
        self._images_below = ImagesBelow(path.parent)

    def splits(self) -> Sequence[str]:
        """Return the splits that images have, and `all`."""
        return [*dict.fromkeys(str(_field(image, "split")) for image in self._images), "all"]

    def has(self, split: str) -> bool:
        """Return True if an image has this split."""
        return split in self.splits()

    def read(self, split: str) -> SplitEntries[Any]:
        """Read the images of a split; `train` includes restval, `all` is everything."""
        entries = SplitEntries[int](self.source, self._locate)
        for i, image in enumerate(self._images):
            of_split = _field(image, "split")
            if split != "all" and of_split not in (TRAIN if split == "train" else (split,)):
                continue
            missing = [key for key in ("filename", "sentences") if key not in image]
            if missing or not ("cocoid" in image or "imgid" in image):
                raise entries.error(i, f"the entry has no '{missing[0] if missing else 'imgid'}'.")
            image_id = image["cocoid"] if "cocoid" in image else image["imgid"]
            directory = f"{image['filepath']}/" if image.get("filepath") else ""
            entries.add_image(image_id, f"{directory}{image['filename']}", i)
            entries.counts["images of restval, which are part of train"] += of_split == "restval" and split == "train"
            for sentence in image["sentences"]:
                entries.add_caption(image_id, _field(sentence, "raw"), i)
        return entries

    def find_image(self, split: str, name: str) -> Path:  # noqa: ARG002
        """Return the file of an image, in the directory that the file names or anywhere below."""
        return self._images_below.find(name)

    def _locate(self, index: int) -> str:
        return f"line {entry_line(read_text(self.source), 'images', index)}, images[{index}]"

    @cached_property
    def _images(self) -> list[Any]:
        content = parse_json(self.source, read_text(self.source), object_hook=_without_tokens)
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, list):
            raise ValueError(f"{self.source} is not in Karpathy's layout: it has no list 'images'.")
        return images


def _without_tokens(entry: dict[str, Any]) -> dict[str, Any]:
    """Drop the tokens of a sentence, which take three quarters of the memory."""
    entry.pop("tokens", None)
    return entry


def _field(entry: Any, key: str) -> Any:  # noqa: ANN401
    return entry.get(key) if isinstance(entry, dict) else None

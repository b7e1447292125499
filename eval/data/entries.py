"""The images and captions of a split as a file lists them, checked for what is broken."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from eval.fields import parse_caption

LINE_SEPARATOR = re.compile("[\v\f\x1c\x1d\x1e\x85\u2028\u2029]")  # besides newlines, which COCO has in captions

Position = TypeVar("Position")


class SplitEntries(Generic[Position]):
    """Images and captions of a split, in the order of the file.

    A broken entry is refused with its place. What is odd, but occurs in published data sets, is counted: COCO has
    line breaks in captions, Flickr8k and PASCAL-50S have captions of one word.

    Args:
        source: The file that lists them, for messages.
        locate: Returns the place of an entry in the file, e.g. `line 12`.

    Attributes:
        names: File name by image id.
        captions: Captions by image id; an image without captions is missing.
        counts: Number of odd entries, by description.
    """

    def __init__(self, source: Path, locate: Callable[[Position], str]) -> None:
        self.source = source
        self.names: dict[int, str] = {}
        self.captions: dict[int, list[str]] = defaultdict(list)
        self.counts: Counter[str] = Counter()
        self._locate = locate
        self._image_at: dict[str, Position] = {}  # by file name

    def error(self, at: Position, reason: str) -> ValueError:
        """Return the error of a broken entry."""
        return ValueError(f"{self.source}, {self._locate(at)}: {reason}")

    def add_image(self, image_id: Any, name: Any, at: Position) -> None:  # noqa: ANN401
        """Add an image, which may have no captions.

        Raises:
            ValueError: If the id is no integer, the name is no path below the data, or one of them occurs twice.
        """
        image_id = self.check_id(image_id, at)
        if not isinstance(name, str):
            raise self.error(at, f"the file name {name!r} is not text.")
        if "\\" in name or "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise self.error(at, f"'{name}' is not a plain file name or a path below the data.")
        if image_id in self.names:
            raise self.error(at, f"the image id {image_id} occurs twice.")
        if name in self._image_at:
            raise self.error(at, f"the image '{name}' occurs twice, first in {self._locate(self._image_at[name])}.")
        self.names[image_id] = name
        self._image_at[name] = at

    def add_caption(self, image_id: Any, caption: Any, at: Position) -> None:  # noqa: ANN401
        """Add a caption of an image, which may be added later.

        Raises:
            ValueError: If the id is no integer, or the caption is not text, empty, or has a line separator in it.
        """
        image_id = self.check_id(image_id, at)
        if not isinstance(caption, str):
            raise self.error(at, f"the caption {caption!r} is not text.")
        caption = parse_caption(caption)
        text = caption.strip()
        if not text:
            raise self.error(at, "the caption is empty. Write one, or remove the entry.")
        if separator := LINE_SEPARATOR.search(text):
            name = f"U+{ord(separator[0]):04X}"
            raise self.error(at, f"the caption has the line separator {name} in it. Replace it by a space.")
        if not any(map(str.isalnum, text)):
            self.counts["captions without a letter or a digit, which are left out"] += 1
            return
        self.counts["captions with a line break, which is read as a space"] += "\n" in text or "\r" in text
        self.counts["captions of one word"] += len(text.split()) == 1
        self.counts["captions that repeat another one of their image"] += caption in self.captions.get(image_id, ())
        self.captions[image_id].append(caption)

    def check_id(self, image_id: Any, at: Position) -> int:  # noqa: ANN401
        """Return the id of an image.

        Raises:
            ValueError: If it is no integer.
        """
        if isinstance(image_id, str):
            raise self.error(at, f"the image id '{image_id}' is text: write it as a number.")
        if isinstance(image_id, float) and image_id.is_integer():  # as pandas writes a column with a gap
            return int(image_id)
        if not isinstance(image_id, int) or isinstance(image_id, bool):
            raise self.error(at, f"the image id {image_id!r} is not an integer.")
        return image_id

    def captioned(self) -> dict[int, tuple[str, ...]]:
        """Return the captions by image id, of the listed images that have one, in the order of the images.

        Raises:
            ValueError: If there are none.
        """
        captioned = {image_id: tuple(self.captions[image_id]) for image_id in self.names if image_id in self.captions}
        unlisted = (len(texts) for image_id, texts in self.captions.items() if image_id not in self.names)
        self.counts["captions of images that are not listed, which are left out"] = sum(unlisted)
        self.counts["images without a caption, which are left out"] = len(self.names) - len(captioned)
        if not captioned:
            raise ValueError(f"{self.source} has no captioned image; {self.describe_counts()}.")
        return captioned

    def describe_counts(self) -> str:
        """Return what is odd, as `2 captions of one word; …`."""
        return "; ".join(f"{number:,} {what}" for what, number in self.counts.items() if number)

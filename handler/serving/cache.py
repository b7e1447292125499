"""Captions of pictures that were asked for before."""

import hashlib
from collections import OrderedDict

from handler.captioner import Caption
from handler.generation import GenerationConfig
from handler.serving.open_inference import Item

Key = tuple[bytes, GenerationConfig]


class ResultCache:
    """The captions of the last pictures, by the file's SHA-256 and the options.

    Args:
        entries: how many are kept, those asked for last; 0 keeps none.
    """

    def __init__(self, entries: int):
        self.entries = entries
        self._kept: OrderedDict[Key, list[Caption]] = OrderedDict()

    def key(self, item: Item) -> Key | None:
        """Under which an item's captions are kept; None where they are not to be: none are, or these are drawn
        without a seed, or explained.
        """
        if not self.entries or item.explain or (item.options.do_sample and item.options.seed is None):
            return None
        return hashlib.sha256(item.image).digest(), item.options

    def get(self, key: Key) -> list[Caption] | None:
        """The captions kept under a key."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Key, captions: list[Caption]) -> None:
        """Keeps captions; the entry that was not asked for the longest makes room."""
        self._kept[key] = captions
        self._kept.move_to_end(key)
        if len(self._kept) > self.entries:
            self._kept.popitem(last=False)

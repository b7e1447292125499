"""In-memory cache of captions."""

import hashlib
from collections import OrderedDict

from handler.captioner import Caption
from handler.generation import GenerationConfig
from handler.serving.messages import ImageRequest

CacheKey = tuple[bytes, GenerationConfig]


class ResultCache:
    """LRU cache of captions by the SHA-256 of the image file and the options.

    Args:
        max_entries: Most images; 0 caches nothing.
    """

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self._entries: OrderedDict[CacheKey, list[Caption]] = OrderedDict()

    def key(self, request: ImageRequest) -> CacheKey | None:
        """Return the key of a request.

        Returns:
            None if the request must not be cached: the cache is off, the captions are sampled without a seed, or they
            are to be explained.
        """
        sampled_at_random = request.options.do_sample and request.options.seed is None
        if not self.max_entries or request.explain or sampled_at_random:
            return None
        return hashlib.sha256(request.image).digest(), request.options

    def get(self, key: CacheKey) -> list[Caption] | None:
        """Return the captions of a key; None if they are not cached."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: CacheKey, captions: list[Caption]) -> None:
        """Store captions. If the cache is full, the least recently used entry is dropped."""
        self._entries[key] = captions
        self._entries.move_to_end(key)
        if len(self._entries) > self.max_entries:
            self._entries.popitem(last=False)

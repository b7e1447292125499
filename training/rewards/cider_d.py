"""CIDEr-D as a reward of self-critical training (Rennie et al. 2017, https://arxiv.org/abs/1612.00563)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

MAX_N = 4  # tokens in the longest n-gram
SIGMA = 6.0  # tokens, standard deviation of the length penalty

Array = np.ndarray[Any, Any]


class CiderD:
    """CIDEr-D (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726) of token ids, as coco-caption computes it.

    The n-grams of the references are counted and numbered once; `score` reads only those of its images. The references
    of the 113,000 COCO images take less than 0.5 GB, and 1.3 GB during construction.

    Args:
        references: Reference captions of each image as token ids, any 64-bit integers. `<end>` counts as a token if
            present. They also give the IDF: log(images / images with the n-gram).

    Raises:
        ValueError: If there are no images, or one has no reference.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]) -> None:
        counts = np.array([len(texts) for texts in references], np.int64)
        if not counts.all() or not len(counts):
            raise ValueError(f"Each image needs a reference: {np.sum(counts == 0)} of {len(counts)} images have none.")
        captions = list(chain.from_iterable(references))
        image = np.repeat(np.arange(len(counts)), counts)
        self._first = np.concatenate(([0], np.cumsum(counts)))  # (images + 1,): the first reference of an image
        self._length = np.array([len(caption) for caption in captions], np.int64)
        self._log_images = np.log(len(counts))
        self._orders: list[_NgramIndex] = []
        number: Array | None = None
        for grams in _ngrams(captions):
            key = self._key(grams, number)
            keys, number = np.unique(key, return_inverse=True)
            _, once = np.unique(image[grams.caption] * len(keys) + number, return_index=True)  # one per image
            idf = self._log_images - np.log(np.bincount(number[once], minlength=len(keys)))
            self._orders.append(
                _NgramIndex(
                    keys,
                    idf,
                    first=np.searchsorted(grams.caption, np.arange(len(captions) + 1)),
                    number=number.astype(np.int32),
                    count=grams.occurrences.astype(np.int32),
                    norm=_norms(grams, idf[number], len(captions)),
                )
            )

    def score(self, images: Sequence[int], captions: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Score each caption against the references of its image.

        Args:
            images: Index of the image of each caption, in the order of the references; may repeat.
            captions: Token ids; an empty caption scores 0.

        Returns:
            (captions,), 0 to 10.

        Raises:
            ValueError: If the numbers of images and captions differ.
            IndexError: If an index is out of range.
        """
        image = np.asarray(images, np.int64)
        if len(image) != len(captions):
            raise ValueError(f"There are {len(image)} images and {len(captions)} captions.")
        if len(image) and not 0 <= image.min() <= image.max() < len(self._first) - 1:
            raise IndexError(f"The images are 0 to {len(self._first) - 2}, not {image.min()} to {image.max()}.")
        # All pairs of a caption and one of its references.
        caption, reference = _ranges(self._first[image], self._first[image + 1])
        similarity = np.zeros(len(caption))
        number: Array | None = None
        for order, grams in zip(self._orders, _ngrams(captions), strict=True):
            number = order.find(self._key(grams, number))
            idf = np.where(number < 0, self._log_images, order.idf[number]) if len(order.idf) else self._log_images
            norm = _norms(grams, idf, len(captions))[caption] * order.norm[reference]
            product = order.products(grams, number, caption, reference)
            similarity += np.divide(product, norm, out=np.zeros(len(caption)), where=norm > 0)
        length = np.array([len(text) for text in captions], np.int64)
        similarity *= np.exp(-((length[caption] - self._length[reference]) ** 2) / (2 * SIGMA**2))
        total = np.bincount(caption, similarity, minlength=len(captions))
        scores: Array = 10 * total / (MAX_N * (self._first[image + 1] - self._first[image]))
        return scores

    def _key(self, grams: "_Ngrams", number: Array | None) -> Array:
        """Compute a unique key of each n-gram from its first n-1 tokens and its last token; -1 if either is unknown.

        Args:
            grams: N-grams of one size.
            number: Numbers of the n-grams that are one token shorter; None for single tokens, which are their own key.
        """
        if number is None:
            return grams.word
        words, prefix = self._orders[0], number[grams.prefix]
        word = words.find(grams.word)
        return np.where((prefix < 0) | (word < 0), -1, prefix * len(words.keys) + word)


class _Ngrams(NamedTuple):
    """The distinct n-grams of one size in each of several captions, in the order of the captions."""

    caption: Array  # (k,) index of the caption
    prefix: Array  # (k,) first n-1 tokens, as an index into the n-grams that are one token shorter
    word: Array  # (k,) last token
    occurrences: Array  # (k,) in the caption


def _ngrams(captions: Sequence[Sequence[int]]) -> Iterator[_Ngrams]:
    """Yield the n-grams of 1, 2, …, `MAX_N` tokens."""
    words, word = np.unique(_flatten(captions), return_inverse=True)
    caption = np.repeat(np.arange(len(captions)), [len(text) for text in captions])
    start, prefix = np.arange(len(word)), caption  # index of the first token, and of the first n-1 tokens
    for n in range(MAX_N):
        inside = start + n < len(word)
        inside[inside] = caption[start[inside]] == caption[start[inside] + n]
        start, prefix = start[inside], prefix[inside]
        # Prefixes are numbered caption by caption, so sorted keys keep the order of the captions.
        _, at, number, count = np.unique(
            prefix * len(words) + word[start + n], return_index=True, return_inverse=True, return_counts=True
        )
        yield _Ngrams(caption[start[at]], prefix[at], words[word[start[at] + n]], count)
        prefix = number


@dataclass(frozen=True)
class _NgramIndex:
    """The n-grams of one size in the references, numbered by their index in `keys`."""

    keys: Array  # (n-grams,) sorted; see `CiderD._key`
    idf: Array  # (n-grams,)
    first: Array  # (references + 1,): start of the entries of a reference in `number` and `count`
    number: Array  # (entries,)
    count: Array  # (entries,) occurrences of the n-gram in the reference
    norm: Array  # (references,) of the TF-IDF vectors

    def find(self, key: Array) -> Array:
        """Map keys to numbers; -1 if in no reference."""
        return _find(self.keys, key)

    def products(self, grams: _Ngrams, number: Array, caption: Array, reference: Array) -> Array:
        """Compute the clipped inner product of the TF-IDF vectors of caption and reference, for each pair (pairs,)."""
        size = max(1, len(self.keys))
        known = np.flatnonzero(number >= 0)
        caption_keys = grams.caption[known] * size + number[known]
        by_key = np.argsort(caption_keys)
        pair, entry = _ranges(self.first[reference], self.first[reference + 1])
        match = _find(caption_keys[by_key], caption[pair] * size + self.number[entry])
        shared = np.flatnonzero(match >= 0)
        pair, entry, gram = pair[shared], entry[shared], known[by_key[match[shared]]]
        clipped = np.minimum(grams.occurrences[gram], self.count[entry]) * self.count[entry]
        return np.bincount(pair, clipped * self.idf[self.number[entry]] ** 2, minlength=len(caption))


def _flatten(captions: Sequence[Sequence[int]]) -> Array:
    return np.fromiter(chain.from_iterable(captions), np.int64)


def _find(table: Array, values: Array) -> Array:
    """Find the index of each value in a sorted table; -1 if missing."""
    if not len(table):
        return np.full(len(values), -1)
    index = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return np.where(table[index] == values, index, -1)


def _ranges(first: Array, last: Array) -> tuple[Array, Array]:
    """Concatenate the integers of the ranges first ≤ x < last: the index of the range, and the integer."""
    counts = last - first
    which = np.repeat(np.arange(len(first)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts - first, counts)


def _norms(grams: _Ngrams, idf: Array, captions: int) -> Array:
    """Compute the Euclidean norm of the TF-IDF vector of each caption (captions,)."""
    return np.sqrt(np.bincount(grams.caption, (grams.occurrences * idf) ** 2, minlength=captions))

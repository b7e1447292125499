"""BLEU-4 of single captions (Papineni et al. 2002), smoothed for captions without a common 4-gram."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_N = 4  # tokens in the longest n-gram

Ngrams = Counter[tuple[int, ...]]


class SentenceBleu:
    """BLEU-4 of token ids, for each caption separately.

    For n > 1, one is added to matches and counts (Lin and Och 2004, https://aclanthology.org/C04-1072). The brevity
    penalty uses the reference of the nearest length, the shorter one in a tie.

    Args:
        references: Reference captions of each image as token ids. `<end>` counts as a token if present.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]) -> None:
        self.references = references

    def score(self, images: Sequence[int], captions: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Score each caption against the references of its image.

        Args:
            images: Index of the image of each caption, in the order of the references.
            captions: Token ids; an empty caption scores 0.

        Returns:
            (captions,), 0 to 1.
        """
        max_counts = {image: self._max_reference_counts(image) for image in set(images)}
        pairs = zip(images, captions, strict=True)
        return np.array([self._score_caption(image, caption, max_counts[image]) for image, caption in pairs])

    def _max_reference_counts(self, image: int) -> Ngrams:
        """Return the maximum count of each n-gram in one reference."""
        counts: Ngrams = Counter()
        for reference in self.references[image]:
            counts |= _ngrams(reference)
        return counts

    def _score_caption(self, image: int, caption: Sequence[int], max_counts: Ngrams) -> float:
        matches, counts = [0] * MAX_N, [0] * MAX_N
        for gram, count in _ngrams(caption).items():
            counts[len(gram) - 1] += count
            matches[len(gram) - 1] += min(count, max_counts[gram])
        if not matches[0]:
            return 0.0
        precisions = [matches[0] / counts[0]]
        precisions += [(match + 1) / (count + 1) for match, count in zip(matches[1:], counts[1:], strict=True)]
        nearest = min((abs(len(reference) - len(caption)), len(reference)) for reference in self.references[image])[1]
        brevity = min(1.0, math.exp(1 - nearest / len(caption)))
        return float(brevity * math.prod(precisions) ** (1 / MAX_N))


def _ngrams(caption: Sequence[int]) -> Ngrams:
    """Count all n-grams of 1 to `MAX_N` tokens."""
    return Counter(
        tuple(caption[start : start + n]) for n in range(1, MAX_N + 1) for start in range(len(caption) - n + 1)
    )

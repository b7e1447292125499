"""BLEU-4 of single captions (Papineni et al. 2002), smoothed for those that share no four words with a reference."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

LONGEST = 4  # words in the longest n-gram


class SentenceBleu:
    """BLEU-4 of token ids, each caption by itself.

    Above single words a match and a word are added to both counts (Lin and Och 2004, https://aclanthology.org/C04-1072).
    The brevity penalty compares with the reference whose length is nearest, the shorter one of two.

    Args:
        references: for each image its reference captions as token ids. An `<end>` counts as a word where it stands.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]):
        self.references = references

    def score(self, images: Sequence[int], captions: Sequence[Sequence[int]]) -> np.ndarray:
        """The BLEU-4 of each caption against the references of its image.

        Args:
            images: each caption's image, counted from 0 in the order of the references.
            captions: token ids; an empty caption scores 0.

        Returns:
            (captions,), float64, 0 to 1.
        """
        most = {image: self._most(image) for image in set(images)}
        return np.array(
            [self._one(image, caption, most[image]) for image, caption in zip(images, captions, strict=True)]
        )

    def _most(self, image: int) -> Counter:
        """How often each n-gram stands in the reference that has it most often."""
        most: Counter = Counter()
        for reference in self.references[image]:
            most |= _ngrams(reference)
        return most

    def _one(self, image: int, caption: Sequence[int], most: Counter) -> float:
        grams = _ngrams(caption)
        matches, counts = [0] * LONGEST, [0] * LONGEST
        for gram, count in grams.items():
            counts[len(gram) - 1] += count
            matches[len(gram) - 1] += min(count, most[gram])
        if not matches[0]:
            return 0.0
        precisions = [matches[0] / counts[0]]
        precisions += [(match + 1) / (count + 1) for match, count in zip(matches[1:], counts[1:], strict=True)]
        nearest = min((abs(len(text) - len(caption)), len(text)) for text in self.references[image])[1]
        brevity = min(1.0, math.exp(1 - nearest / len(caption)))
        return brevity * math.prod(precisions) ** (1 / LONGEST)


def _ngrams(caption: Sequence[int]) -> Counter:
    """All n-grams of 1 to `LONGEST` words."""
    return Counter(
        tuple(caption[start : start + n]) for n in range(1, LONGEST + 1) for start in range(len(caption) - n + 1)
    )

"""Words that a caption repeats."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from handler.function_words import is_content_word
from handler.modeling.vocabulary import Vocabulary

MAX_N = 3  # tokens in the longest n-gram whose immediate repetition counts


class Repetition:
    """Number of tokens that repeat something.

    A content word repeats if it is anywhere earlier in the caption: "a man and a man" has one. Any token repeats if it
    ends an n-gram of 1 to `MAX_N` tokens that stands twice in a row: "a man on on", "in the in the".

    Args:
        vocabulary: Vocabulary of the ids. `is_content_word` selects its content words.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._content = [is_content_word(token) for token in vocabulary.tokens]

    def score(self, _images: Sequence[int], captions: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Count the repeating tokens of each caption of token ids (captions,); see `NgramOveruse.score`."""
        return np.array([self._count(list(caption)) for caption in captions], np.float64)

    def _count(self, caption: list[int]) -> int:
        repeated = 0
        for end, token in enumerate(caption, 1):
            repeats_word = self._content[token] and token in caption[: end - 1]
            sizes = range(1, min(MAX_N, end // 2) + 1)
            repeats_ngram = any(caption[end - n : end] == caption[end - 2 * n : end - n] for n in sizes)
            repeated += repeats_word or repeats_ngram
        return repeated

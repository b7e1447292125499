"""n-grams of many texts as numbers, so that NumPy counts them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NGrams:
    """The n-grams of a list of texts, for one n.

    Attributes:
        n: Tokens of an n-gram.
        ids: Number of each occurring n-gram (N,), 0 to `size` - 1; equal n-grams have the same number.
        texts: Index of the text of each occurring n-gram (N,).
        starts: Position in `tokens` at which the first n-gram of each number begins (size,).
        tokens: The tokens of all texts, one text after the other.
    """

    n: int
    ids: IntArray
    texts: IntArray
    starts: IntArray
    tokens: Sequence[str]

    @property
    def size(self) -> int:
        """Number of different n-grams."""
        return len(self.starts)

    def words(self, number: int) -> str:
        """Return the tokens of an n-gram, separated by spaces."""
        start = int(self.starts[number])
        return " ".join(self.tokens[start : start + self.n])

    def count(self, groups: IntArray, num_groups: int) -> IntArray:
        """Count the occurrences of each n-gram in each group of texts.

        Args:
            groups: Group of each text (texts,), 0 to `num_groups` - 1.
            num_groups: Number of groups.

        Returns:
            (num_groups, size).
        """
        return _bincount(groups[self.texts], self.ids, num_groups, self.size)

    def count_texts(self, groups: IntArray, num_groups: int) -> IntArray:
        """Count the texts of each group that have an n-gram; arguments and result as in `count`."""
        texts, ids = np.divmod(np.unique(self.texts * self.size + self.ids), max(self.size, 1))
        return _bincount(groups[texts], ids, num_groups, self.size)


class EncodedTexts:
    """Texts whose tokens have numbers.

    Args:
        texts: Tokens of each text.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        numbers: dict[str, int] = {}
        self.tokens = [token for text in texts for token in text]
        self._words = np.array([numbers.setdefault(token, len(numbers)) for token in self.tokens], dtype=np.int64)
        self._texts = np.repeat(np.arange(len(texts), dtype=np.int64), [len(text) for text in texts])
        self._num_words = len(numbers)

    def ngrams(self, n: int) -> NGrams:
        """Return the n-grams of all texts; a text with fewer than n tokens has none."""
        starts = np.arange(max(len(self.tokens) - n + 1, 0), dtype=np.int64)
        starts = starts[self._texts[starts] == self._texts[starts + n - 1]]  # do not cross the border of two texts
        ids, limit = self._words[starts], self._num_words  # of the n-gram so far, and a number above all of them
        for k in range(1, n):
            if limit * self._num_words > np.iinfo(np.int64).max:
                different, ids = np.unique(ids, return_inverse=True)
                limit = len(different)
            ids = ids * self._num_words + self._words[starts + k]
            limit *= self._num_words
        _, first, ids = np.unique(ids, return_index=True, return_inverse=True)
        return NGrams(n, ids, self._texts[starts], starts[first], self.tokens)


def _bincount(groups: IntArray, ids: IntArray, num_groups: int, size: int) -> IntArray:
    counts = np.bincount(groups * size + ids, minlength=num_groups * size)
    return counts.reshape(num_groups, size)

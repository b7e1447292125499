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


def number_ngrams(texts: Sequence[Sequence[str]], max_n: int) -> list[NGrams]:
    """Assign numbers to the n-grams of texts for n = 1 … `max_n`.

    Args:
        texts: Tokens of each text; a text shorter than n has no n-gram.
        max_n: Largest n.
    """
    numbers: dict[str, int] = {}
    tokens = [token for text in texts for token in text]
    words = np.array([numbers.setdefault(token, len(numbers)) for token in tokens], dtype=np.int64)
    text_of = np.repeat(np.arange(len(texts), dtype=np.int64), [len(text) for text in texts])
    first = np.arange(len(tokens), dtype=np.int64)  # position of the first token of each n-gram
    ids = words
    found = []
    for n in range(1, max_n + 1):
        if n > 1:  # an n-gram is an (n - 1)-gram and one token more of the same text
            last = first + n - 1
            fits = last < len(tokens)
            fits[fits] = text_of[last[fits]] == text_of[first[fits]]
            first = first[fits]
            ids = ids[fits] * len(numbers) + words[first + n - 1]
        _, examples, ids = np.unique(ids, return_index=True, return_inverse=True)
        found.append(NGrams(n, ids, text_of[first], first[examples], tokens))
    return found


def _bincount(groups: IntArray, ids: IntArray, num_groups: int, size: int) -> IntArray:
    counts = np.bincount(groups * size + ids, minlength=num_groups * size)
    return counts.reshape(num_groups, size)

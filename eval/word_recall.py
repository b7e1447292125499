"""Recall of the words that people agree on: those of at least two references of an image, by groups of words."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from eval.parts_of_speech import TaggedWord

MIN_REFERENCES = 2  # that share a word

Words = Collection[TaggedWord]  # different words of a caption
Recall = dict[str, float]  # by group, 0 to 1, without the groups of which no image has a shared word


def word_recall(
    captions: Sequence[Words],
    references: Sequence[Sequence[Words]],
    num_folds: int,
    groupings: Sequence[Callable[[TaggedWord], str]],
) -> tuple[list[Recall], list[Recall]]:
    """Compute the share of the shared words of all images that captions have.

    A word of an image is shared if at least two of its references have it, without the one that is held out.

    Args:
        captions: Words of the caption of each image.
        references: Words of the references of each image.
        num_folds: Number of references that are held out in turn, from the first.
        groupings: Each maps a word to its group in one division of the words.

    Returns:
        Recall of the captions, and of the reference that is held out; both for each fold.
    """
    numbers: dict[tuple[int, TaggedWord], int] = {}  # of each word of each image
    rows: list[list[int]] = [[] for _ in range(num_folds + 1)]  # words of the captions, then of each fold
    of_references: list[int] = []
    for image, (words, texts) in enumerate(zip(captions, references, strict=True)):
        rows[0] += [numbers.setdefault((image, word), len(numbers)) for word in words]
        for k, text in enumerate(texts):
            found = [numbers.setdefault((image, word), len(numbers)) for word in text]
            of_references += found
            if k < num_folds:
                rows[k + 1] += found
    has_word = np.zeros((num_folds + 1, len(numbers)), dtype=bool)
    for row, found in zip(has_word, rows, strict=True):
        row[found] = True
    counts = np.bincount(np.array(of_references, dtype=np.int64), minlength=len(numbers))
    divisions = [_divide([grouping(word) for _, word in numbers]) for grouping in groupings]
    of_captions: list[Recall] = [{} for _ in range(num_folds)]
    of_people: list[Recall] = [{} for _ in range(num_folds)]
    for fold, held_out in enumerate(has_word[1:]):
        is_shared = counts - held_out >= MIN_REFERENCES
        for names, group in divisions:
            total = np.bincount(group[is_shared], minlength=len(names))
            for recall, has in ((of_captions, has_word[0]), (of_people, held_out)):
                hits = np.bincount(group[is_shared & has], minlength=len(names))
                recall[fold] |= {name: hits[i] / total[i] for i, name in enumerate(names) if total[i]}
    return of_captions, of_people


def _divide(groups: Sequence[str]) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the names of the groups, and the index of the group of each word."""
    names = list(dict.fromkeys(groups))
    index = {name: i for i, name in enumerate(names)}
    return names, np.array([index[group] for group in groups], dtype=np.int64)

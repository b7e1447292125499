"""Numbers and counts of n-grams, against counts by hand."""

import numpy as np

from eval.ngrams import number_ngrams

TEXTS = [["a", "dog", "a", "dog"], ["a", "dog"], [], ["dog", "runs"]]


def by_words(ngrams, counts) -> dict[str, int]:
    return {ngrams.words(number): int(count) for number, count in enumerate(counts) if count}


def test_number_ngrams_counts_occurrences_by_group():
    words, pairs, triples = number_ngrams(TEXTS, 3)
    groups = np.array([0, 0, 1, 1])
    assert [by_words(words, of_group) for of_group in words.count(groups, 2)] == [
        {"a": 3, "dog": 3},
        {"dog": 1, "runs": 1},
    ]
    # "dog a" is inside the first text; no pair crosses the border of two texts, e.g. "dog dog".
    assert [by_words(pairs, of_group) for of_group in pairs.count(groups, 2)] == [
        {"a dog": 3, "dog a": 1},
        {"dog runs": 1},
    ]
    assert by_words(triples, triples.count(groups, 2)[0]) == {"a dog a": 1, "dog a dog": 1}


def test_count_texts_counts_a_text_once():
    _, pairs = number_ngrams(TEXTS, 2)
    first, second = pairs.count_texts(np.array([0, 0, 1, 1]), 2)
    assert by_words(pairs, first) == {"a dog": 2, "dog a": 1}  # "a dog" is twice in the first text
    assert by_words(pairs, second) == {"dog runs": 1}


def test_number_ngrams_without_words_gives_empty_counts():
    _, pairs = number_ngrams([[], []], 2)
    assert pairs.size == 0
    assert pairs.count(np.zeros(2, int), 1).shape == pairs.count_texts(np.zeros(2, int), 1).shape == (1, 0)

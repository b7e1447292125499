"""Numbers and counts of n-grams, against counts by hand."""

import numpy as np

from eval.ngrams import EncodedTexts

TEXTS = [["a", "dog", "a", "dog"], ["a", "dog"], [], ["dog", "runs"]]
GROUPS = np.array([0, 0, 1, 1])


def by_words(ngrams, counts) -> dict[str, int]:
    return {ngrams.words(number): int(count) for number, count in enumerate(counts) if count}


def test_count_counts_occurrences_by_group():
    words, pairs, triples = (EncodedTexts(TEXTS).ngrams(n) for n in (1, 2, 3))
    assert [by_words(words, of_group) for of_group in words.count(GROUPS, 2)] == [
        {"a": 3, "dog": 3},
        {"dog": 1, "runs": 1},
    ]
    # "dog a" is inside the first text; no pair crosses the border of two texts, e.g. "dog dog".
    assert [by_words(pairs, of_group) for of_group in pairs.count(GROUPS, 2)] == [
        {"a dog": 3, "dog a": 1},
        {"dog runs": 1},
    ]
    assert by_words(triples, triples.count(GROUPS, 2)[0]) == {"a dog a": 1, "dog a dog": 1}


def test_count_texts_counts_a_text_once():
    pairs = EncodedTexts(TEXTS).ngrams(2)
    first, second = pairs.count_texts(GROUPS, 2)
    assert by_words(pairs, first) == {"a dog": 2, "dog a": 1}  # "a dog" is twice in the first text
    assert by_words(pairs, second) == {"dog runs": 1}


def test_ngrams_of_many_words_do_not_overflow():
    """With 40,000 different words, five of them have more combinations than an integer has values."""
    words = [str(number) for number in range(40_000)]
    ngrams = EncodedTexts([words, words[::-1], words[-5:]]).ngrams(5)
    assert ngrams.size == 2 * (len(words) - 4)
    assert by_words(ngrams, ngrams.count(np.array([0, 0, 1]), 2)[1]) == {"39995 39996 39997 39998 39999": 1}


def test_ngrams_without_words_are_empty():
    pairs = EncodedTexts([[], []]).ngrams(2)
    assert pairs.size == 0
    assert pairs.count(np.zeros(2, int), 1).shape == pairs.count_texts(np.zeros(2, int), 1).shape == (1, 0)

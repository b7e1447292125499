"""Diversity of caption sets, against values worked out by hand."""

import math

import pytest

from eval.diversity import measure_diversity


def diversity(sets: list[list[str]], references: list[list[str]]) -> dict[str, float]:
    return measure_diversity(*([[text.split() for text in texts] for texts in group] for group in (sets, references)))


def test_div_counts_different_ngrams_over_words():
    # First set: a, b, c are 3 words of 5; "a b", "b c" are 2 of 5. Second: 1 of 2, and no pair.
    found = diversity([["a b", "a b c"], ["a", "a"]], [["x"]])
    assert found["div_1"] == pytest.approx((3 / 5 + 1 / 2) / 2)
    assert found["div_2"] == pytest.approx((2 / 5 + 0) / 2)


def test_mutual_bleu_matches_hand_computed_precisions():
    # Each has 4 of 5 words of the other, 3 of 4 pairs, 2 of 3 runs of three and 1 of 2 runs of four.
    # In sum over both 8/10, 6/8, 4/6, 2/4. Lengths are equal, so there is no brevity penalty.
    found = diversity([["a b c d e", "a b c d f"]], [["x"]])
    assert found["mbleu_4"] == pytest.approx((0.8 * 0.75 * (2 / 3) * 0.5) ** 0.25, abs=1e-6)


def test_mutual_bleu_clips_counts_to_the_other_captions():
    # "a a a a" has "a" four times, "a b c d" once: 1 of 4 matches for each. No pair is in both.
    one = diversity([["a a a a", "a b c d", "a b c d"]], [["x"]])["mbleu_4"]
    # The equal captions match in full: (1 + 4 + 4) / 12 words, (0 + 3 + 3) / 9, (0 + 2 + 2) / 6, (0 + 1 + 1) / 3.
    assert one == pytest.approx((9 / 12 * 6 / 9 * 4 / 6 * 2 / 3) ** 0.25, abs=1e-6)


def test_self_cider_is_zero_for_equal_and_one_for_unrelated_captions():
    references = [["a b c d"], ["e f g h"]]  # each word is in one of two images: its IDF is log 2
    assert diversity([["a b c d", "a b c d"]], references)["self_cider"] == pytest.approx(0)
    assert diversity([["a b c d", "e f g h"]], references)["self_cider"] == pytest.approx(1)


def test_self_cider_matches_hand_computed_eigenvalues():
    # The vectors of the words of "a b" and "a c" are (1, 1, 0) and (1, 0, 1) times log 3, with a cosine of 1/2. Those
    # of the pairs share nothing, and there are no longer n-grams. The kernel is K_11 = K_22 = (1 + 1) / 4 = 1/2 and
    # K_12 = (1/2) / 4 = 1/8, with the eigenvalues 5/8 and 3/8. r = √5 / (√5 + √3), and self-CIDEr is -log2 r.
    found = diversity([["a b", "a c"]], [["a"], ["b"], ["c"]])
    assert found["self_cider"] == pytest.approx(-math.log2(math.sqrt(5) / (math.sqrt(5) + math.sqrt(3))))


def test_self_cider_of_words_in_every_image_is_zero():
    assert diversity([["a", "a"]], [["a"], ["a"]])["self_cider"] == 0  # their IDF is 0, so all vectors are


def test_measure_diversity_sets_of_other_sizes_are_independent():
    references = [["a b c d e f"], ["g h"]]
    alone = diversity([["a b", "a c"]], references)["self_cider"]
    both = diversity([["a b", "a c"], ["i j k l", "m n o p", "q r s t"]], references)["self_cider"]
    assert both == pytest.approx((alone + 1) / 2)  # no two captions of the second set share a word

"""Likeness of two distributions, against entropies worked out by hand."""

import numpy as np
import pytest

from eval.likeness import likeness, mark_ends


def test_likeness_matches_hand_computed_divergence():
    # p = (1, 0), q = (1/2, 1/2), so m = (3/4, 1/4). H(m) = 2 - 3/4 log2 3 = 0.811278, H(p) = 0, H(q) = 1.
    # The divergence is 0.811278 - (0 + 1) / 2 = 0.311278.
    assert likeness(np.array([4, 0]), np.array([5, 5])) == pytest.approx(1 - 0.311278, abs=1e-6)


def test_likeness_is_one_for_equal_and_zero_for_disjoint_distributions():
    assert likeness(np.array([1, 2, 0]), np.array([10, 20, 0])) == pytest.approx(1)
    assert likeness(np.array([3, 0]), np.array([0, 7])) == pytest.approx(0)
    assert likeness(np.array([0, 0]), np.array([0, 7])) == 0  # no caption has a word


def test_likeness_counts_rare_runs_of_people_as_one():
    # The commonest run of people counts alone, the two others together: (2, 2) and (2, 2) are equal.
    assert likeness(np.array([2, 2, 0]), np.array([2, 1, 1]), num_runs=1) == pytest.approx(1)
    assert likeness(np.array([2, 2, 0]), np.array([2, 1, 1]), num_runs=3) < 1


def test_mark_ends_leaves_empty_captions_empty():
    assert mark_ends(["a", "dog"]) == ["<start>", "a", "dog", "<end>"]
    assert mark_ends([]) == []

"""The deviation of lengths, computed by hand."""

import pytest

from training.rewards import LengthDeviation


def test_length_deviation_is_relative_to_the_mean_of_the_references():
    reward = LengthDeviation([[[1]], [[1, 2], [1, 2, 3, 4, 5, 6]]])  # means 1 and 4
    scores = reward.score([1, 1, 1, 1, 0], [[1, 2, 3, 4], [1, 2], [1] * 7, [], [1, 2]])
    assert scores.tolist() == pytest.approx([0, 0.5, 0.75, 1, 1])

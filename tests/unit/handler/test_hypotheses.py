"""Ranking of the hypotheses of one image."""

import pytest

from handler.generation.hypotheses import Hypothesis, duplicates_last, rank_across_groups


def test_score_is_the_mean_log_probability():
    assert Hypothesis([4], [-1.0, -2.0]).score == pytest.approx(-1.5)


def test_rank_across_groups_takes_the_best_of_each_group_first():
    groups = [
        [(-0.5, (3, 0)), (-0.6, (3, 1))],
        [(-0.4, (2, 0)), (-0.9, (4, 1)), (-1.0, (5, 0))],
        [],
    ]
    assert rank_across_groups(groups) == [(1, (2, 0)), (0, (3, 0)), (0, (3, 1)), (1, (4, 1)), (1, (5, 0))]


def test_rank_across_groups_of_equal_scores_keeps_their_order():
    assert rank_across_groups([[(-1.0, (5, 0))], [(-1.0, (2, 0))]]) == [(0, (5, 0)), (1, (2, 0))]


def test_duplicates_last_keeps_the_order_otherwise():
    first, second, third = Hypothesis([4], [-1.0, -1.0]), Hypothesis([5], [-2.0, -1.0]), Hypothesis([6], [-3.0, -1.0])
    again = Hypothesis([4], [-1.5, -1.0])
    assert duplicates_last([first, again, second, third]) == [first, second, third, again]

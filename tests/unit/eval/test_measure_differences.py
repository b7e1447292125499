"""Differences between the measures of two systems."""

from eval.measure_differences import compare_measures, difference_rows
from eval.measures import Measures
from eval.overuse import OverusedRun


def compare(tokens_a, tokens_b, pairs_a=None, pairs_b=None, overused_a=(), overused_b=()):
    measures = (Measures(pairs_a or {}, list(overused_a)), Measures(pairs_b or {}, list(overused_b)))
    return compare_measures([1, 2], measures, (dict(enumerate(tokens_a, 1)), dict(enumerate(tokens_b, 1))))


def test_compare_measures_has_the_runs_that_either_overuses():
    found = compare(
        ["in front of", "in front of"], ["on top of", "in front of"],
        overused_a=[OverusedRun("in front of", 1.0, 0.2)], overused_b=[OverusedRun("on top of", 0.5, 0.1)],
    )  # fmt: skip
    # Of the resamples of two images, a quarter has the first twice, a quarter the second: -1 … 0 and 0 … 1.
    assert found == {
        '"in front of"': {"a": 1.0, "b": 0.5, "people": 0.2, "interval": (-1.0, 0.0)},
        '"on top of"': {"a": 0.0, "b": 0.5, "people": 0.1, "interval": (0.0, 1.0)},
    }


def test_compare_measures_has_intervals_of_means_alone():
    pair = {"model": 3.0, "people": 9.0}
    found = compare(["a b c"] * 2, ["a"] * 2, *[{"words_used": pair, "words_per_caption": pair, "distinct": pair}] * 2)
    assert {name: one["interval"] for name, one in found.items()} == {
        "words_used": None, "distinct": None, "words_per_caption": (-2.0, -2.0),
    }  # fmt: skip


def test_compare_measures_leaves_out_what_one_system_lacks():
    pair = {"model": 3.0, "people": None}
    found = compare(["a"] * 2, ["b"] * 2, {"div_1": pair, "words_used": pair}, {"words_used": pair})
    assert found.keys() == {"words_used"}


def test_difference_rows_have_units_and_signs():
    differences = {
        "words_used": {"a": 215.0, "b": 341.0, "people": 1557.0, "interval": None},
        '"in front of"': {"a": 0.169, "b": 0.149, "people": None, "interval": (-0.04, 0.005)},
        "words_per_caption": {"a": 10.0, "b": 9.0, "people": 11.0, "interval": (-1.2, -0.8)},
    }
    assert difference_rows(differences) == [
        ["words used", "215", "341", "1557", "–"],
        ['"in front of"', "16.9 %", "14.9 %", "–", "-4.0 % … +0.5 %"],
        ["words per caption", "10.0", "9.0", "11.0", "-1.2 … -0.8"],
    ]

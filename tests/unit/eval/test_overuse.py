"""Overused runs of three words."""

import numpy as np

from eval.ngrams import EncodedTexts
from eval.overuse import OverusedRun, has_run, overused_runs


def overused(captions: list[str], people: list[str]) -> list[OverusedRun]:
    runs = EncodedTexts([text.split() for text in captions + people]).ngrams(3)
    groups = np.repeat([0, 1], [len(captions), len(people)])
    model, of_people = runs.count_texts(groups, 2)
    return overused_runs(runs, model, of_people, len(captions), len(people))


def test_overused_runs_have_both_shares_and_the_largest_excess_first():
    captions = ["on top of"] * 4 + ["next to it"] * 3 + ["z"] * 3
    people = ["on top of"] * 3 + ["w"] * 7
    # "next to it" has an excess of 0.3 - 0, "on top of" of 0.4 - 0.3.
    assert overused(captions, people) == [OverusedRun("next to it", 0.3, 0.0), OverusedRun("on top of", 0.4, 0.3)]


def test_overused_runs_name_a_phrase_by_its_commonest_run():
    captions = ["sits in front of a"] * 3 + ["is in front of"] * 2 + ["dog"] * 5
    # "in front of" is in 5 captions, "sits in front" in 3, "front of a" in 3, "is in front" in 2, too few to count.
    assert overused(captions, ["in front of", "b", "c", "d"]) == [OverusedRun("in front of", 0.5, 0.25)]


def test_overused_runs_ignore_rare_runs_and_those_of_people():
    assert overused(["a b c"] * 2 + ["d"] * 98, ["x"]) == []  # two captions, too few
    assert overused(["a b c"] * 3 + ["d"] * 197, ["x"]) == []  # 1.5 %
    assert overused(["a b c"] * 4 + ["d"] * 196, ["x"]) == [OverusedRun("a b c", 0.02, 0.0)]
    assert overused(["a b c"] * 4, ["a b c"]) == []


def test_overused_runs_are_five_at_most():
    captions = [f"{word}1 {word}2 {word}3" for word in "abcdefg" for _ in range(3)]
    assert [run.run for run in overused(captions, ["x"])] == [f"{word}1 {word}2 {word}3" for word in "abcde"]


def test_has_run_compares_whole_words():
    captions = ["in front of it", "within front of", "in front of", ""]
    assert [has_run("in front of", caption) for caption in captions] == [True, False, True, False]

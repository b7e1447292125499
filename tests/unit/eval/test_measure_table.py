"""Tables and warnings of measures."""

import pytest

from eval.measure_table import MEASURES, find_warnings, format_measures
from eval.measures import Measures
from eval.overuse import OverusedRun


def pair(model, people):
    return {"model": model, "people": people}


def test_format_measures_has_units_and_runs_last():
    pairs = {"likeness": pair(0.5, 0.95), "repeats": pair(0.193, None), "words_used": pair(215.0, 1556.8)}
    text = format_measures(Measures(pairs, [OverusedRun("in front of", 0.169, 0.035)]))
    assert text.splitlines()[2:] == [
        "| say a content word twice | 19.3 % | – |",
        "| words used | 215 | 1557 |",
        "| likeness to people | 0.500 | 0.950 |",
        '| "in front of" | 16.9 % | 3.5 % |',
    ]


@pytest.mark.parametrize(
    ("name", "near", "far", "people"),
    [
        ("repeats", 0.12, 0.13, 0.075),
        ("words_used", 334, 333, 1000),
        ("distinct", 0.85, 0.84, 0.99),
        ("bad_endings", 0.02, 0.03, 0.005),
        ("likeness", 0.76, 0.74, 1.0),
        ("self_cider", 0.76, 0.74, 1.0),
    ],
)
def test_find_warnings_beyond_the_limit(name, near, far, people):
    assert find_warnings(Measures({name: pair(near, people)}, [])) == []
    [warning] = find_warnings(Measures({name: pair(far, people)}, []))
    assert warning.startswith(f"{MEASURES[name].label}: ")
    assert "(limit: " in warning
    assert find_warnings(Measures({name: pair(far, None)}, [])) == []


def test_find_warnings_of_runs_needs_share_and_ratio():
    runs = [
        OverusedRun("in front of", 0.1, 0.03),  # 3.3 times people's
        OverusedRun("a man in", 0.1, 0.05),  # twice
        OverusedRun("on top of", 0.04, 0.0),  # rare
    ]
    assert find_warnings(Measures({}, runs)) == [
        '"in front of": 10.0 %, people 3.0 % (limit: 5 % and 2.5 times people\'s).'
    ]

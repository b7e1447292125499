"""What a soak test reports as a failure."""

import json

import pytest

from deploy.soak.limits import GROWTH_LIMITS, failures
from deploy.soak.load import SoakResult
from deploy.soak.monitor import FIGURES, Sample
from deploy.soak.report import summarize, to_markdown
from tests.unit.deploy.soak.series import RESPONSE, soak_report


def test_failures_of_a_steady_soak_are_empty():
    content = soak_report()
    assert failures(content) == []
    assert content["outcomes"] == {"caption": 600}
    assert content["latency_ms"]["first_third"]["p50"] == content["latency_ms"]["last_third"]["p50"] == 100
    assert "| worker_mb |" in to_markdown(content)


def test_failures_of_a_soak_too_short_to_judge_are_empty():
    results = [SoakResult("raw", "caption", 9.0, 0.1, RESPONSE)]
    content = summarize([Sample(9.0, *range(7))], results, 0.0, 10.0, 1, 0)
    assert failures(content) == []
    assert "| worker_mb | 0.0 | 0.0 | 0.0 | – |" in to_markdown(content)
    assert "| first third | – | – | – |" in to_markdown(content)
    json.dumps(content, allow_nan=False)
    json.dumps(summarize([], [], 0.0, 10.0, 1, 0), allow_nan=False)


@pytest.mark.parametrize("name", GROWTH_LIMITS)
def test_failures_name_a_figure_that_grows(name):
    """Half an hour: the thirds of its second half are ten minutes apart, in which the figure rises by a third."""
    per_hour, minimum = GROWTH_LIMITS[name]
    [sentence] = failures(soak_report(name, 3 * max(per_hour / 6, minimum) + 15))  # noise has a deviation of 1.2
    assert sentence.startswith(f"{name} grows: from 1")
    assert sentence.endswith(" in 0.17 hours.")
    assert failures(soak_report(name, 3 * minimum - 15 if minimum > 10 else 0)) == []


def test_failures_ignore_a_heap_that_fills_and_stays():
    samples = [Sample(6.0 * n, *[min(778 + n, 878) + (n % 40 == 0) for _ in FIGURES]) for n in range(300)]
    results = [SoakResult("raw", "caption", 3.0 * n, 0.1, RESPONSE) for n in range(600)]
    assert failures(summarize(samples, results, 0.0, 1800.0, 1, 0)) == []


def test_failures_ignore_the_heap_of_java():
    assert failures(soak_report("jvm_mb", 1000)) == []


def test_failures_of_a_server_that_stops_responding():
    results = [SoakResult("raw", "lost" if n == 99 else "caption", 3.0 * n, 0.1, RESPONSE) for n in range(100)]
    assert failures(summarize([], results, 0.0, 1800.0, 1, 2)) == [
        "1 responses were lost.",
        "No worker was READY in 2 samples.",
    ]


@pytest.mark.parametrize(("seconds", "last", "count"), [(1800, 0.16, 1), (1800, 0.14, 0), (300, 0.16, 0)])
def test_failures_name_responses_that_get_slower(seconds, last, count):
    samples = [Sample(seconds * n / 300, *[100.0] * len(FIGURES)) for n in range(300)]
    results = [SoakResult("raw", "caption", seconds * n / 600, 0.1 if n < 400 else last, RESPONSE) for n in range(600)]
    sentences = failures(summarize(samples, results, 0.0, float(seconds), 1, 0))
    assert sentences == ["Responses get slower: median from 100 ms to 160 ms."] * count


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"outcome": "wrong"}, "1 responses were wrong."),
        ({"outcome": "5xx"}, "1 responses were 5xx."),
        ({"outcome": "lost"}, "1 responses were lost."),
        ({"workers": 2}, "There were 2 workers, one after another."),
        ({"unready": 3}, "No worker was READY in 3 samples."),
    ],
)
def test_failures_name_bad_responses_and_restarts(changes, sentence):
    assert failures(soak_report(**changes)) == [sentence]


def test_summarize_lists_unexpected_responses():
    assert soak_report(outcome="wrong")["unexpected"] == ["raw: 200 a dog"]

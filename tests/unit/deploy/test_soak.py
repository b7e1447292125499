"""What a soak asks, what it calls growth, and that it ends with an error where something is amiss."""

import contextlib
import json
import sys
from random import Random

import numpy as np
import pytest

from deploy.soak import __main__ as command
from deploy.soak.load import Answered, _said, _streamed
from deploy.soak.monitor import FIGURES, Sample
from deploy.soak.report import GROWTH, faults, summarize, table
from deploy.soak.request_mix import GOOD, REFUSED, draw_wishes
from deploy.soak.trend import student, trend
from deploy.torchserve import ServerError


def test_every_kind_is_asked_and_one_in_ten_is_bad():
    wishes = draw_wishes([b"a", b"b"], 120, Random(0))
    assert {wish.kind for wish in wishes} == {*GOOD, *REFUSED}
    assert sum(not wish.good for wish in wishes) == 12
    assert wishes == draw_wishes([b"a", b"b"], 120, Random(0))
    assert wishes != draw_wishes([b"a", b"b"], 120, Random(1))


@pytest.mark.parametrize(
    ("free", "quantile"), [(2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)]
)
def test_students_quantiles(free, quantile):
    assert student(0.975, free) == pytest.approx(quantile, rel=0.01)


def noise(correlation: float, count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    values = [generator.normal() / (1 - correlation**2) ** 0.5]
    for _ in range(count - 1):
        values.append(correlation * values[-1] + generator.normal())
    return np.array(values)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_interval_holds_the_slope_however_alike_neighbours_are(correlation):
    hours = np.arange(200) / 200
    found = [trend(hours, 3 * hours + noise(correlation, 200, seed)) for seed in range(200)]
    assert sum(one.low <= 3 <= one.high for one in found) >= 180  # 95 %, less what 200 draws may miss
    assert np.mean([one.slope for one in found]) == pytest.approx(3, abs=1)


@pytest.mark.parametrize(
    ("values", "slope", "sure"),
    [([1, 2, 3, 4], 3.0, True), ([5, 5, 5, 5], 0.0, True), ([1, 2], 0.0, False), ([], 0.0, False)],
)
def test_straight_lines_and_too_few(values, slope, sure):
    found = trend(np.arange(len(values)) / 3, values)
    assert found.slope == pytest.approx(slope)
    assert (found.low, found.high) == (pytest.approx((slope, slope)) if sure else (-np.inf, np.inf))


def figures(
    grown: str = "", rise: float = 0.0, hours: float = 0.5, outcome: str = "caption", workers: int = 1, unready: int = 0
):
    """A soak's figures, one of them grown by so much in all."""
    count = 300
    samples = []
    for number in range(count):
        share = number / count
        values = {name: 100 + noise(0.5, 1, number)[0] for name in FIGURES}
        if grown:
            values[grown] += rise * share
        samples.append(Sample(3600 * hours * share, **values))
    answered = [
        Answered("raw", outcome if number == 7 else "caption", 6.0 * hours * number, 0.1, (200, "x"))
        for number in range(600)
    ]
    return summarize(samples, answered, 0.0, 3600 * hours, workers, unready)


def test_a_soak_without_a_fault():
    content = figures()
    assert faults(content) == []
    assert content["outcomes"] == {"caption": 600}
    assert content["latency_ms"]["first_third"]["p50"] == content["latency_ms"]["last_third"]["p50"] == 100
    assert "| worker_mb |" in table(content)


def test_a_soak_too_short_to_tell_calls_nothing_growth():
    content = summarize([Sample(9.0, *range(7))], [Answered("raw", "caption", 9.0, 0.1, (200, "x"))], 0.0, 10.0, 1, 0)
    assert faults(content) == []
    assert "| worker_mb | 0.0 | 0.0 | 0.0 | – |" in table(content)
    json.dumps(content, allow_nan=False)
    json.dumps(summarize([], [], 0.0, 10.0, 1, 0), allow_nan=False)


@pytest.mark.parametrize("name", GROWTH)
def test_what_grows_is_told(name):
    """In half an hour: between the thirds of the last half lie ten minutes, a third of the whole rise."""
    an_hour, least = GROWTH[name]
    [told] = faults(figures(name, 3 * max(an_hour / 6, least) + 15))  # noise has a deviation of 1.2
    assert told.startswith(f"{name} grows: from 1")
    assert told.endswith(" in 0.17 hours.")
    assert faults(figures(name, 3 * least - 15 if least > 10 else 0)) == []


def test_a_heap_that_fills_and_then_stays_is_no_growth():
    samples = [Sample(6.0 * n, *[min(778 + n, 878) + (n % 40 == 0) for _ in FIGURES]) for n in range(300)]
    answered = [Answered("raw", "caption", 3.0 * n, 0.1, (200, "x")) for n in range(600)]
    assert faults(summarize(samples, answered, 0.0, 1800.0, 1, 0)) == []


def test_a_server_that_stops_answering_is_told():
    answered = [Answered("raw", "lost" if n == 99 else "caption", 3.0 * n, 0.1, (200, "x")) for n in range(100)]
    assert faults(summarize([], answered, 0.0, 1800.0, 1, 2)) == [
        "1 answers were lost.",
        "No worker was READY at 2 looks.",
    ]


@pytest.mark.parametrize(("seconds", "last", "told"), [(1800, 0.16, 1), (1800, 0.14, 0), (300, 0.16, 0)])
def test_answers_that_get_slower_are_told(seconds, last, told):
    samples = [Sample(seconds * n / 300, *[100.0] * len(FIGURES)) for n in range(300)]
    answered = [Answered("raw", "caption", seconds * n / 600, 0.1 if n < 400 else last, (200, "x")) for n in range(600)]
    found = faults(summarize(samples, answered, 0.0, float(seconds), 1, 0))
    assert found == ["Answers get slower: from 100 ms to 160 ms, half of them."] * told


def test_javas_heap_may_fill():
    assert faults(figures("jvm_mb", 1000)) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"outcome": "wrong"}, "1 answers were wrong."),
        ({"outcome": "5xx"}, "1 answers were 5xx."),
        ({"outcome": "lost"}, "1 answers were lost."),
        ({"workers": 2}, "There were 2 workers, one after another."),
        ({"unready": 3}, "No worker was READY at 3 looks."),
    ],
)
def test_other_faults_are_told(changed, told):
    assert faults(figures(**changed)) == [told]


CAPTIONED = {"caption": "a dog", "captions": [{"tokens": ["a", "dog"]}]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CAPTIONED, "a dog"),
        ({"code": 422, "type": "InvalidImage", "message": "…"}, "InvalidImage"),
        ({"predictions": [CAPTIONED, {"code": 422, "type": "InvalidImage"}]}, "a dog | InvalidImage"),
        ({"outputs": [{"data": ["a dog", ""]}, {"data": ["{}", "{}"]}]}, "a dog | "),
    ],
)
def test_what_of_an_answer_is_compared(content, said):
    assert _said(content) == said


@pytest.mark.parametrize(
    ("tokens", "said"), [(["a", "dog"], "a dog"), (["a", "a", "dog"], "other words than the caption's")]
)
def test_a_streams_words_are_its_captions(tokens, said):
    parts = [*({"token": token} for token in tokens), CAPTIONED]
    assert _streamed("".join(f"event: x\ndata: {json.dumps(part)}\n\n" for part in parts)) == (200, said)


@pytest.mark.parametrize("told", [[], ["1 answers were lost."]])
def test_it_ends_with_an_error_where_there_is_a_fault(monkeypatch, tmp_path, told, capsys):
    monkeypatch.setattr(command, "soak", lambda *_: figures() | {"faults": told})
    monkeypatch.setattr(sys, "argv", ["soak", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) if told else contextlib.nullcontext() as ended:
        command.main()
    assert (ended.value.code if told else "") == "\n".join(told)
    assert "600 requests in 30.0 minutes: 600 caption." in capsys.readouterr().out


def test_a_server_that_does_not_come_up_is_told(monkeypatch):
    def fail(*_):
        raise ServerError("Port 1 is taken.")

    monkeypatch.setattr(command, "soak", fail)
    monkeypatch.setattr(sys, "argv", ["soak"])
    with pytest.raises(SystemExit, match="Port 1 is taken"):
        command.main()

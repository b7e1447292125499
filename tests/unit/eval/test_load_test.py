"""The load generator against an endpoint of known slowness, and what it tells of it."""

import itertools
import json
import subprocess
import sys
import time

import pytest

from eval.client import Client
from eval.load_test import Load, closed_loop, measure, open_loop, read_metrics, table
from tests.helpers.paths import ROOT

ANSWER = (200, "application/json", {"caption": "a dog"})
STALL = 2  # s
SLOW = 1  # s: far from what a busy machine takes for an answer


def stalling():
    """An endpoint that answers at once, but for one time in which it answers nobody."""
    began = time.perf_counter()

    def answer(number, body):
        since = time.perf_counter() - began
        if 0.5 < since < 0.5 + STALL:
            time.sleep(0.5 + STALL - since)
        return ANSWER

    return answer


def test_an_open_loop_counts_all_the_waiting_and_a_closed_one_hides_it(serve):
    """For 2 s of 3.5 nobody is answered. One caller meets that once; of 20 pictures a second some 20 wait a second."""
    slow = {}
    for name, loop, level in (("closed", closed_loop, 1), ("open", open_loop, 20)):
        with Client(serve(stalling()).url, retries=0, concurrency=64) as client:
            tally = loop(client, itertools.repeat(b"x"), {}, level, 3.5)
        assert not tally.errors
        slow[name] = sum(latency > SLOW for latency in tally.latencies)
        if name == "open":
            assert len(tally.latencies) == 70
    assert slow["closed"] == 1
    assert 15 <= slow["open"] <= 30


def test_latency_counts_from_when_a_picture_was_due(serve):
    """One answer at a time, 0.1 s each, and 20 a second asked for: the tenth has waited for the nine before it."""
    import threading

    lock = threading.Lock()

    def one_by_one(number, body):
        with lock:
            time.sleep(0.1)
        return ANSWER

    with Client(serve(one_by_one).url, retries=0, concurrency=64) as client:
        tally = open_loop(client, itertools.repeat(b"x"), {}, 20, 0.5)
    # Due at 0, 50, … 450 ms, done at 100, 200, … 1000 ms at best: latencies of 100, 150, … 550 ms.
    # They come to 3.25 s in whatever order; a busy machine adds to that.
    assert 3.249 <= sum(tally.latencies) < 8


def test_errors_are_counted_by_type_and_not_as_answers(serve):
    def busy(number, body):
        return (503, "text/plain", b"") if number % 2 else ANSWER

    with Client(serve(busy).url, retries=0) as client:
        load = measure(Load("x", "closed", 1), lambda: closed_loop(client, itertools.repeat(b"x"), {}, 1, 0.3), None)
    assert load.errors.keys() == {"Busy"}
    assert abs(load.errors["Busy"] - load.answered) <= 1
    assert load.throughput == pytest.approx(load.answered / load.seconds)
    assert load.latency_ms["p50"] <= load.latency_ms["p99"] <= load.latency_ms["max"]
    assert "Busy |" in table([load])


def test_a_server_without_metrics(serve):
    assert read_metrics(None) is None
    assert read_metrics("http://127.0.0.1:9") is None


def test_the_command(serve, tmp_path):
    command = [
        sys.executable, "-m", "eval.load_test", serve(lambda *_: ANSWER).url, serve(lambda *_: ANSWER).url, "beam_size=2",
        "--concurrency", "1", "2", "--rates", "20", "--seconds", "0.5", "--results", tmp_path, "--metrics-ports", "9",
    ]  # fmt: skip
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| http") == 6
    content = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert [(load["kind"], load["level"]) for load in content["loads"]] == [
        ("closed", 1),
        ("closed", 2),
        ("open", 20.0),
    ] * 2
    assert (tmp_path / "bench" / "bench.png").read_bytes()[:4] == b"\x89PNG"

    def once(number, body):
        return ANSWER if number == 1 else (503, "text/plain", b"")

    command[3:6] = [serve(once).url]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr  # an endpoint that is overwhelmed is measured to the end
    content = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert [load["errors"].keys() for load in content["loads"]] == [{"Busy"}] * 3
    for arguments in (["http://127.0.0.1:9"], ["x", "--concurrency", "0"], ["beam_size=3"]):
        done = subprocess.run([*command[:3], *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr

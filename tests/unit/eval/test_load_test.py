"""Load generator against endpoints of known speed."""

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from eval.client import Client
from eval.load_test import LoadResult, closed_loop, format_results, measure, open_loop
from eval.prometheus import MetricsDelta, metrics_url, read_metrics

ANSWER = (200, "application/json", {"caption": "a dog"})
STALL = 2  # seconds
SLOW = 1  # seconds: far more than a response takes on a busy machine


def stalling():
    """Return an endpoint that responds at once, except for one stall."""
    start = time.perf_counter()

    def respond(number, body):
        elapsed = time.perf_counter() - start
        if 0.5 < elapsed < 0.5 + STALL:
            time.sleep(0.5 + STALL - elapsed)
        return ANSWER

    return respond


def test_open_loop_counts_the_waiting_that_a_closed_loop_hides(serve):
    """The endpoint stalls for 2 of 3 s. A client waits once; of 20 requests per second, 20 wait more than a second."""

    def run(loop, level):
        with Client(serve(stalling()).url, retries=0, concurrency=64) as client:
            return loop(client, itertools.repeat(b"x"), {}, level, 3.0)

    with ThreadPoolExecutor(2) as pool:
        closed, opened = (pool.submit(run, *load) for load in ((closed_loop, 1), (open_loop, 20)))
    assert not closed.result().errors
    assert not opened.result().errors
    assert len(opened.result().latencies) == 60
    assert sum(latency > SLOW for latency in closed.result().latencies) == 1
    assert 15 <= sum(latency > SLOW for latency in opened.result().latencies) <= 30


def test_open_loop_latency_counts_from_when_a_request_was_due(serve):
    """Responses take 0.1 s, one at a time, at 20 requests per second: the tenth waits for the nine before it."""
    lock = threading.Lock()

    def one_by_one(number, body):
        with lock:
            time.sleep(0.1)
        return ANSWER

    with Client(serve(one_by_one).url, retries=0, concurrency=64) as client:
        collector = open_loop(client, itertools.repeat(b"x"), {}, 20, 0.5)
    # Due at 0, 50, … 450 ms, done at 100, 200, … 1000 ms at the earliest: latencies of 100, 150, … 550 ms.
    # Their sum is 3.25 s in any order; a busy machine adds to that.
    assert 3.249 <= sum(collector.latencies) < 8


def test_measure_counts_errors_by_type(serve):
    def busy(number, body):
        return (503, "text/plain", b"") if number % 2 else ANSWER

    with Client(serve(busy).url, retries=0) as client:
        run = lambda: closed_loop(client, itertools.repeat(b"x"), {}, 1, 0.3)  # noqa: E731
        result = measure(LoadResult("x", "closed", 1), run, None)
    assert result.errors.keys() == {"Busy"}
    assert abs(result.errors["Busy"] - result.answered) <= 1
    assert result.throughput == pytest.approx(result.answered / result.seconds)
    assert result.latency_ms["p50"] <= result.latency_ms["p99"] <= result.latency_ms["max"]
    assert "Busy |" in format_results([result])


def test_read_metrics_of_an_unreachable_server_is_none():
    assert read_metrics(None) is None
    assert read_metrics("http://127.0.0.1:9") is None


def test_metrics_delta_is_never_negative():
    change = MetricsDelta({"a_count": 5, "a_sum": 50}, {"a_count": 7, "a_sum": 60, "b_count": 1})
    assert change.mean("a") == 5
    assert change.mean("c") is None
    assert MetricsDelta({"a": 5}, {"a": 2}).delta("a") == 0


@pytest.mark.parametrize("endpoint", ["http://host:8080", "host:7070", "https://host/predictions/x"])
def test_metrics_url_is_on_the_host_of_the_endpoint(endpoint):
    assert metrics_url(endpoint, 8082) == "http://host:8082"


def test_load_test_writes_results_and_plot(serve, tmp_path, run_main):
    endpoints = [serve(lambda *_: ANSWER).url, serve(lambda *_: ANSWER).url]
    levels = ["--concurrency", 1, 2, "--rates", 20, "--seconds", 0.2, "--results", tmp_path, "--metrics-ports", 9]
    done = run_main("eval.load_test", *endpoints, "beam_size=2", *levels)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| http") == 6
    content = json.loads((tmp_path / "load-test" / "load-test.json").read_text())
    assert content["options"] == {"beam_size": "2"}
    expected = [("closed", 1), ("closed", 2), ("open", 20.0)] * 2
    assert [(load["kind"], load["level"]) for load in content["loads"]] == expected
    assert (tmp_path / "load-test" / "load-test.png").read_bytes()[:4] == b"\x89PNG"


def test_load_test_overloaded_endpoint_is_measured_to_the_end(serve, tmp_path, run_main):
    def once(number, body):
        return ANSWER if number == 1 else (503, "text/plain", b"")

    levels = ["--concurrency", 1, 2, "--rates", 20, "--seconds", 0.2, "--results", tmp_path, "--metrics-ports", 9]
    done = run_main("eval.load_test", serve(once).url, *levels)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "load-test" / "load-test.json").read_text())
    assert [load["errors"].keys() for load in content["loads"]] == [{"Busy"}] * 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["http://127.0.0.1:9"],
        ["x", "--concurrency", "0"],
        ["beam_size=3"],
        ["x", "--metrics-ports", "1", "2"],
    ],
)
def test_load_test_invalid_arguments_exit_with_one_sentence(run_main, tmp_path, arguments):
    done = run_main("eval.load_test", *arguments, "--results", tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip()

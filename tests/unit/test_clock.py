"""Durations are right while the wall clock jumps, by hours and back."""

import itertools
import json
import logging
import time
from types import SimpleNamespace

import pytest

from eval.client import Client
from eval.request_log import open_log
from handler.captioner import Captioner
from handler.serving.endpoint import Endpoint
from handler.serving.messages import RawRequest
from handler.serving.metrics import Telemetry
from handler.serving.settings import Settings
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS, ROOT

PHOTO = PHOTOS[0].read_bytes()
JUMPS = (0.0, 7200.0, -86400.0, 3.2e9)  # s, from true time
LONGEST = 60.0  # s; everything here takes less


@pytest.fixture
def jumping(monkeypatch):
    """Each reading of the wall clock is off by another jump."""
    now, jumps = time.time, itertools.cycle(JUMPS)
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * time.time()))


class Metrics:
    """Records the values of metrics."""

    def __init__(self):
        self.values: dict[str, list[float]] = {}

    def add_metric_to_cache(self, metric_name, **_):
        values = self.values.setdefault(metric_name, [])
        return SimpleNamespace(add_or_update=lambda value, dimensions: values.append(value))


def test_handler_times_and_cache_ignore_wall_clock_jumps(jumping, tmp_path, caplog):
    captioner, metrics = Captioner.load(write_tiny_bundle(tmp_path / "model")), Metrics()
    endpoint = Endpoint(captioner, {"name": "c", "version": "1.0", "digest": ""}, Settings(cache_entries=2))
    telemetry = Telemetry(metrics, "c")
    with caplog.at_level(logging.INFO):
        for outcome in ("ok", "cached", "cached"):  # cached captions do not expire
            calls = [RawRequest({"body": PHOTO}, {"host": "x"}, "id", None)]
            _, stats = endpoint.handle_batch(calls)
            telemetry.record(stats)
            assert stats.requests[0].outcomes == [outcome]
    seconds = {name: values for name, values in metrics.values.items() if name.endswith("_seconds")}
    assert len(seconds) == 4
    assert all(0 <= value < LONGEST for values in seconds.values() for value in values)
    line = json.loads(next(record.message for record in caplog.records if "request_id" in record.message))
    assert all(0 < line[name] < 1000 * LONGEST for name in ("decode_ms", "encode_ms", "search_ms"))


def test_client_latencies_and_retries_ignore_wall_clock_jumps(jumping, serve, tmp_path):
    """The client retries a busy server; timeouts and pauses do not depend on the wall clock."""
    answer = {"caption": "a dog", "model": {"digest": "x"}}
    server = serve(lambda number, _: (503, "text/plain", b"") if number % 2 else (200, "application/json", answer))
    log = open_log(tmp_path / "run" / "requests.jsonl", {"split": "x"})
    with Client(server.url, timeout=5, concurrency=2) as client:
        for outcome in client.caption_all((number, lambda: b"x") for number in range(6)):
            assert 0 < outcome.seconds < LONGEST
            log.add(outcome)
    log.close()
    lines = [line for line in map(json.loads, log.path.read_text().splitlines()) if "image_id" in line]
    assert len(lines) == 6
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert all(0 <= line[name] < LONGEST for line in lines for name in ("at", "seconds"))
    assert 0 < log.seconds < LONGEST


@pytest.mark.parametrize("directory", ["handler", "eval", "deploy"])
def test_code_never_reads_the_wall_clock(directory):
    for path in (ROOT / directory).rglob("*.py"):
        code = path.read_text()
        assert "time.time(" not in code, path
        assert "datetime.now(" not in code, path

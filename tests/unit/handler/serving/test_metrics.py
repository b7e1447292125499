"""Metrics and log records of a batch."""

import json
import logging
from types import SimpleNamespace

import pytest

from handler.errors import REQUEST_ERRORS
from handler.serving.metrics import METRICS, Telemetry
from handler.serving.stats import BatchStats, RequestStats

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST = {
    "request_id": "r",
    "is_http": True,
    "status": 200,
    "outcomes": ["ok"],
    "captions": ["a dog"],
    "image_bytes": 100,
    "decode_seconds": 0.25,
    "streamed": False,
    "traceparent": "",
}


class MetricsCache:
    """Keeps the values of metrics by name and dimensions."""

    def __init__(self):
        self.values = {}

    def add_metric_to_cache(self, metric_name, dimension_names, **_):
        def update(value, dimensions):
            assert len(dimensions) == len(dimension_names)
            self.values.setdefault((metric_name, *dimensions[1:]), []).append(value)

        return SimpleNamespace(add_or_update=update)


@pytest.fixture
def cache():
    return MetricsCache()


def log_records(caplog) -> list[dict]:
    return [json.loads(record.message) for record in caplog.records]


def test_telemetry_counts_every_outcome_from_zero(cache):
    Telemetry(cache, "captioner")
    counted = {outcome for name, *outcome in cache.values if name == "captioner_images_total" for outcome in outcome}
    assert counted == {"ok", "cached", *(error.__name__ for error in REQUEST_ERRORS)}
    assert all(values == [0] for values in cache.values.values())


def test_record_updates_every_metric(cache):
    telemetry = Telemetry(cache, "captioner")
    cache.values.clear()
    telemetry.record_precision("int8")
    requests = [RequestStats(**REQUEST), RequestStats(**REQUEST | {"outcomes": ["ok", "cached", "TooLarge"]})]
    telemetry.record(BatchStats(requests, [2, 1], [0.5, 0.25], [2.0, 1.0], cache_hits=1, cache_misses=2, seconds=4.0))
    [[memory]] = [values for (name, *_), values in cache.values.items() if name == "captioner_memory_bytes"]
    assert memory > 1e7
    assert cache.values == {
        ("captioner_images_total", "ok"): [2],
        ("captioner_images_total", "cached"): [1],
        ("captioner_images_total", "TooLarge"): [1],
        ("captioner_cache_lookups_total", "hit"): [1],
        ("captioner_cache_lookups_total", "miss"): [2],
        ("captioner_batch_images",): [2, 1],
        ("captioner_request_seconds",): [4.0, 4.0],
        ("captioner_decode_seconds",): [0.25, 0.25],
        ("captioner_encode_seconds",): [0.5, 0.25],
        ("captioner_search_seconds",): [2.0, 1.0],
        ("captioner_memory_bytes",): [memory],
        ("captioner_encoder_precision", "int8"): [1],
    }
    assert {name for name, *_ in cache.values} == METRICS.keys()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"batch_images": 3, "encode_ms": 750.0, "search_ms": 3000.0}),
        ({"outcomes": ["cached"]}, {"outcomes": ["cached"]}),
        ({"outcomes": ["TooLarge"], "status": 413}, {"outcomes": ["TooLarge"], "code": 413}),
        ({"is_http": False, "outcomes": ["cached"]}, {"protocol": "grpc", "outcomes": ["cached"]}),
        ({"streamed": True, "outcomes": ["cached"]}, {"stream": True, "outcomes": ["cached"]}),
        ({"traceparent": TRACEPARENT, "outcomes": ["cached"]}, {"traceparent": TRACEPARENT, "outcomes": ["cached"]}),
        ({"traceparent": "x\n[METRICS]", "outcomes": ["cached"]}, {"outcomes": ["cached"]}),
    ],
)
def test_record_logs_one_json_record_per_request(cache, caplog, changes, expected):
    caplog.set_level(logging.INFO)
    Telemetry(cache, "captioner").record(
        BatchStats([RequestStats(**REQUEST | changes)], [2, 1], [0.5, 0.25], [2.0, 1.0])
    )
    default = {"request_id": "r", "protocol": "http", "code": 200, "outcomes": ["ok"], "image_bytes": 100}
    assert log_records(caplog) == [default | {"decode_ms": 250.0} | expected]


def test_record_logs_captions_only_if_asked(cache, caplog):
    caplog.set_level(logging.INFO)
    Telemetry(cache, "captioner", log_captions=True).record(BatchStats([RequestStats(**REQUEST)]))
    [record] = log_records(caplog)
    assert record["captions"] == ["a dog"]

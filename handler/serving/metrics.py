"""What is measured and logged: TorchServe's own metrics, which Prometheus reads, and one line of JSON a request."""

import json
import logging
import re

import psutil
from ts.metrics.metric_type_enum import MetricTypes

from handler.serving.endpoint import Batch
from handler.serving.messages import Answer, Call
from handler.serving.openapi import ERRORS

logger = logging.getLogger(__name__)

TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context, 3.2

COUNTER, GAUGE, HISTOGRAM = MetricTypes.COUNTER, MetricTypes.GAUGE, MetricTypes.HISTOGRAM
OUTCOMES = ["ok", "cached", *(error.__name__ for error in ERRORS)]
# Name → unit, its dimension beside the model's name, and kind.
METRICS = {
    "captioner_images_total": ("Count", "Outcome", COUNTER),
    "captioner_cache_lookups_total": ("Count", "Result", COUNTER),
    "captioner_batch_images": ("Count", None, HISTOGRAM),
    "captioner_request_seconds": ("Seconds", None, HISTOGRAM),
    "captioner_decode_seconds": ("Seconds", None, HISTOGRAM),
    "captioner_encode_seconds": ("Seconds", None, HISTOGRAM),
    "captioner_search_seconds": ("Seconds", None, HISTOGRAM),
    "captioner_memory_bytes": ("Bytes", None, GAUGE),
}


class Telemetry:
    """Writes metrics and the log.

    Args:
        metrics: TorchServe's, of the worker's context.
        model_name: the dimension that all have.
        log_captions: whether the log holds what was said.
    """

    def __init__(self, metrics, model_name: str, log_captions: bool = False):
        self.model_name, self.log_captions = model_name, log_captions
        self.metrics = {
            name: metrics.add_metric_to_cache(
                metric_name=name,
                unit=unit,
                dimension_names=["ModelName", *([dimension] if dimension else [])],
                metric_type=kind,
            )
            for name, (unit, dimension, kind) in METRICS.items()
        }
        self.process = psutil.Process()
        # A counter that is not there before its first event hides that event from Prometheus, which sees differences.
        for outcome in OUTCOMES:
            self._add("captioner_images_total", 0, outcome)
        for result in ("hit", "miss"):
            self._add("captioner_cache_lookups_total", 0, result)

    def record(self, calls: list[Call], answers: list[Answer], batch: Batch, seconds: float) -> None:
        """A batch that was answered, in so many seconds."""
        outcomes: dict[str, int] = {}
        for call, answer in zip(calls, answers, strict=True):
            for result in answer.results:
                outcomes[result] = outcomes.get(result, 0) + 1
            if answer.results:
                logger.info("%s", self._line(call, answer, batch))
                self._add("captioner_request_seconds", seconds)
                self._add("captioner_decode_seconds", answer.decode)
        for outcome, count in outcomes.items():
            self._add("captioner_images_total", count, outcome)
        for result, count in (("hit", batch.hits), ("miss", batch.misses)):
            if count:
                self._add("captioner_cache_lookups_total", count, result)
        for size, encode, search in zip(batch.sizes, batch.encode, batch.search, strict=True):
            self._add("captioner_batch_images", size)
            self._add("captioner_encode_seconds", encode)
            self._add("captioner_search_seconds", search)
        self._add("captioner_memory_bytes", self.process.memory_info().rss)

    def _add(self, name: str, value: float, *dimensions: str) -> None:
        self.metrics[name].add_or_update(round(value, 6), [self.model_name, *dimensions])

    def _line(self, call: Call, answer: Answer, batch: Batch) -> str:
        """One request as JSON. It holds nothing of the caller's but what can only be digits and letters."""
        line = {
            "request_id": call.id,
            "protocol": "http" if call.http else "grpc",
            "code": answer.code,
            "outcomes": answer.results,
            "image_bytes": answer.bytes,
            "decode_ms": _ms(answer.decode),
        }
        if "ok" in answer.results:  # what the batch took that it was decoded in
            line["batch_images"] = sum(batch.sizes)
            line |= {"encode_ms": _ms(sum(batch.encode)), "search_ms": _ms(sum(batch.search))}
        if answer.stream:
            line["stream"] = True
        if TRACEPARENT.fullmatch(trace := call.headers.get("traceparent", "")):
            line["traceparent"] = trace
        if self.log_captions:
            line["captions"] = answer.captions
        return json.dumps(line)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)

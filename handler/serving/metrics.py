"""Metrics for Prometheus, written through TorchServe, and one JSON log record per inference request."""

import json
import logging
import re
from collections import Counter
from typing import Any

import psutil
from ts.metrics.metric_type_enum import MetricTypes  # type: ignore[import-untyped]

from handler.errors import REQUEST_ERRORS
from handler.serving.stats import BatchStats, RequestStats

logger = logging.getLogger(__name__)

TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context, section 3.2

COUNTER, GAUGE, HISTOGRAM = MetricTypes.COUNTER, MetricTypes.GAUGE, MetricTypes.HISTOGRAM
OUTCOMES = ["ok", "cached", *(error.__name__ for error in REQUEST_ERRORS)]
# Name → unit, dimension beside the model name, type.
METRICS = {
    "captioner_images_total": ("Count", "Outcome", COUNTER),
    "captioner_cache_lookups_total": ("Count", "Result", COUNTER),
    "captioner_batch_images": ("Count", None, HISTOGRAM),
    "captioner_request_seconds": ("Seconds", None, HISTOGRAM),
    "captioner_decode_seconds": ("Seconds", None, HISTOGRAM),
    "captioner_encode_seconds": ("Seconds", None, HISTOGRAM),
    "captioner_search_seconds": ("Seconds", None, HISTOGRAM),
    "captioner_memory_bytes": ("Bytes", None, GAUGE),
    "captioner_encoder_precision": ("Count", "Precision", GAUGE),
}


class Telemetry:
    """Writes metrics and log records.

    Args:
        metrics: Metrics cache of the TorchServe context.
        model_name: Model name, a dimension of all metrics.
        log_captions: Write captions to the log.
    """

    def __init__(self, metrics: Any, model_name: str, log_captions: bool = False) -> None:  # noqa: ANN401 -- untyped
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
        # Prometheus computes differences, so it misses the first event of a counter that does not start at 0.
        for outcome in OUTCOMES:
            self._update("captioner_images_total", 0, outcome)
        for result in ("hit", "miss"):
            self._update("captioner_cache_lookups_total", 0, result)

    def record_precision(self, precision: str) -> None:
        """Record which precision the encoder runs in."""
        self._update("captioner_encoder_precision", 1, precision)

    def record(self, batch: BatchStats) -> None:
        """Record a batch of requests."""
        for request in batch.requests:
            logger.info("%s", self._log_record(request, batch))
            self._update("captioner_request_seconds", batch.seconds)
            self._update("captioner_decode_seconds", request.decode_seconds)
        outcomes = Counter(outcome for request in batch.requests for outcome in request.outcomes)
        for outcome, count in outcomes.items():
            self._update("captioner_images_total", count, outcome)
        for result, count in (("hit", batch.cache_hits), ("miss", batch.cache_misses)):
            if count:
                self._update("captioner_cache_lookups_total", count, result)
        runs = zip(batch.batch_sizes, batch.encode_seconds, batch.search_seconds, strict=True)
        for size, encode_seconds, search_seconds in runs:
            self._update("captioner_batch_images", size)
            self._update("captioner_encode_seconds", encode_seconds)
            self._update("captioner_search_seconds", search_seconds)
        self._update("captioner_memory_bytes", self.process.memory_info().rss)

    def _update(self, name: str, value: float, *dimensions: str) -> None:
        self.metrics[name].add_or_update(round(value, 6), [self.model_name, *dimensions])

    def _log_record(self, request: RequestStats, batch: BatchStats) -> str:
        """Format a request as JSON. Client text is left out, except for a `traceparent` of digits and letters."""
        record: dict[str, Any] = {
            "request_id": request.request_id,
            "protocol": "http" if request.is_http else "grpc",
            "code": request.status,
            "outcomes": request.outcomes,
            "image_bytes": request.image_bytes,
            "decode_ms": _milliseconds(request.decode_seconds),
        }
        if "ok" in request.outcomes:  # the runs of the model are shared by the batch
            record["batch_images"] = sum(batch.batch_sizes)
            record["encode_ms"] = _milliseconds(sum(batch.encode_seconds))
            record["search_ms"] = _milliseconds(sum(batch.search_seconds))
        if request.streamed:
            record["stream"] = True
        if TRACEPARENT.fullmatch(request.traceparent):
            record["traceparent"] = request.traceparent
        if self.log_captions:
            record["captions"] = request.captions
        return json.dumps(record)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)

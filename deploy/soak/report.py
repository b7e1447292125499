"""Report of a soak test: counts, growth, latency, failures and the plot."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.soak.load import SoakResult
from deploy.soak.monitor import FIGURES, Sample
from deploy.soak.trend import Trend, trend
from eval.markdown import markdown_table

WARM_UP = 0.2  # share of the time before latency is judged
SETTLED = 0.5  # share of the time before growth is judged: heaps fill for a quarter of an hour


def summarize(
    samples: Sequence[Sample], results: Sequence[SoakResult], start: float, end: float, workers: int, unready: int
) -> dict[str, Any]:
    """Summarize a soak test.

    Args:
        samples: Resource samples.
        results: Results of all requests.
        start: Start time, from `time.perf_counter`.
        end: End time.
        workers: Number of worker processes so far; 1 if none was restarted.
        unready: Number of samples without a READY worker.

    Returns:
        All figures, ready for JSON.
    """
    settled = start + SETTLED * (end - start)
    judged = [sample for sample in samples if sample.at >= settled]
    warm = start + WARM_UP * (end - start)
    third = (end - warm) / 3
    first = [result.seconds for result in results if warm <= result.at < warm + third]
    last = [result.seconds for result in results if result.at >= end - third]
    kinds: dict[str, Counter[str]] = {}
    for result in results:
        kinds.setdefault(result.kind, Counter())[result.outcome] += 1
    unexpected = [result for result in results if not _is_expected(result)][:20]
    return {
        "seconds": end - start,
        "requests": len(results),
        "outcomes": dict(Counter(result.outcome for result in results)),
        "kinds": {kind: dict(outcomes) for kind, outcomes in sorted(kinds.items())},
        "latency_ms": {"first_third": _percentiles(first), "last_third": _percentiles(last)},
        "workers": workers,
        "unready": unready,
        "growth": {name: _growth(judged, name) for name in FIGURES},
        "unexpected": [f"{result.kind}: {result.response.code} {result.response.text}" for result in unexpected],
    }


def to_markdown(content: dict[str, Any]) -> str:
    """Format the figures as Markdown."""
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(content["outcomes"].items()))
    rows = []
    for name, growth in content["growth"].items():
        interval = "–" if growth["low"] is None else f"{growth['low']:.1f} – {growth['high']:.1f}"
        cells = [f"{growth[key]:.1f}" for key in ("first", "last", "per_hour")]
        rows.append([name, *cells, interval])
    columns = ["in the last half", "first third", "last third", "slope per hour", "95 % interval"]
    latencies = [
        [part.replace("_", " "), *([f"{value:.0f}" for value in latency.values()] or ["–"] * 3)]
        for part, latency in content["latency_ms"].items()
    ]
    return "\n".join(
        [
            f"{content['requests']} requests in {content['seconds'] / 60:.1f} minutes: {outcomes}.",
            "",
            markdown_table(columns, rows),
            "",
            markdown_table(["latency, ms", "p50", "p95", "max"], latencies),
        ]
    )


def plot(samples: Sequence[Sample], results: Sequence[SoakResult], start: float, path: Path) -> None:
    """Plot memory, open files and threads, and latency over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, counts, latency) = pyplot.subplots(3, sharex=True, figsize=(7, 7), layout="constrained")
    minutes = [(sample.at - start) / 60 for sample in samples]
    for name in FIGURES:
        axes = memory if name.endswith("_mb") else counts
        axes.plot(minutes, [getattr(sample, name) for sample in samples], label=name.replace("_", " "))
    latency.plot([(one.at - start) / 60 for one in results], [1000 * one.seconds for one in results], ".", ms=1)
    memory.set(ylabel="resident MB", ylim=(0, None))
    counts.set(ylabel="count", ylim=(0, None))
    latency.set(ylabel="latency, ms", xlabel="minutes", yscale="log")
    for axes in (memory, counts, latency):
        axes.grid(alpha=0.3)
    memory.legend(fontsize=8)
    counts.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _growth(samples: Sequence[Sample], name: str) -> dict[str, float | None]:
    """Summarize the growth of a figure: medians of the first and last third, hours between them, slope, interval.

    Medians decide and the interval is informative: it assumes deviations from a line, but memory may grow in steps.
    """
    if not samples:
        return dict.fromkeys(("first", "last", "hours", "per_hour"), 0.0) | {"low": None, "high": None}
    values = [getattr(sample, name) for sample in samples]
    hours = [(sample.at - samples[0].at) / 3600 for sample in samples]
    third = max(1, len(values) // 3)
    line = trend(hours, values)
    medians = {"first": float(np.median(values[:third])), "last": float(np.median(values[-third:]))}
    distance = float(np.mean(hours[-third:]) - np.mean(hours[:third]))
    return medians | {"hours": distance, "per_hour": line.slope} | _interval(line)


def _interval(line: Trend) -> dict[str, float | None]:
    """Return the interval for JSON, which has no infinity."""
    is_finite = math.isfinite(line.low)
    return {"low": line.low if is_finite else None, "high": line.high if is_finite else None}


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {f"p{p}": 1000 * float(np.percentile(seconds, p)) for p in (50, 95)} | {"max": 1000 * max(seconds)}


def _is_expected(result: SoakResult) -> bool:
    return result.outcome in ("caption", "refused")

"""What a soak came to: counts, growth, latency, what is wrong with it, and the plot."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.soak.asking import Answered
from deploy.soak.growth import Trend, trend
from deploy.soak.watch import FIGURES, Sample

WARM_UP = 0.2  # of the time: caches, pools and heaps fill
# What is called growth: the interval's lower end is above so much an hour, and the whole rise above so much.
GROWTH = {
    "worker_mb": (20.0, 16.0),
    "worker_files": (2.0, 8.0),
    "worker_threads": (2.0, 4.0),
    "jvm_files": (4.0, 16.0),
    "jvm_threads": (4.0, 16.0),
    "children": (1.0, 1.0),
}  # jvm_mb is shown and not judged: Java fills its heap before it collects


def summarize(
    samples: Sequence[Sample], answered: Sequence[Answered], began: float, ended: float, workers: int, unready: int
) -> dict[str, Any]:
    """All figures of a soak.

    Args:
        samples: of its processes.
        answered: its requests.
        began, ended: times of `perf_counter`.
        workers: how many there have been, one after another.
        unready: samples without a READY worker.
    """
    warm = began + WARM_UP * (ended - began)
    kept = [sample for sample in samples if sample.at >= warm]
    hours = [(sample.at - began) / 3600 for sample in kept]
    rising = {name: trend(hours, [getattr(sample, name) for sample in kept]) for name in FIGURES}
    span = hours[-1] - hours[0] if hours else 0.0
    growth = {
        name: {"an_hour": found.slope, "rise": found.slope * span} | _ends(found) for name, found in rising.items()
    }
    third = (ended - warm) / 3
    first = [one.seconds for one in answered if warm <= one.at < warm + third]
    last = [one.seconds for one in answered if one.at >= ended - third]
    kinds: dict[str, Counter[str]] = {}
    for one in answered:
        kinds.setdefault(one.kind, Counter())[one.outcome] += 1
    return {
        "seconds": ended - began,
        "requests": len(answered),
        "outcomes": dict(Counter(one.outcome for one in answered)),
        "kinds": {kind: dict(outcomes) for kind, outcomes in sorted(kinds.items())},
        "latency_ms": {"first_third": _percentiles(first), "last_third": _percentiles(last)},
        "workers": workers,
        "unready": unready,
        "growth": growth,
        "odd": [f"{one.kind}: {one.said[0]} {one.said[1]}" for one in answered if not _right(one)][:20],
    }


def faults(content: dict[str, Any]) -> list[str]:
    """What is not as it has to be, a sentence each."""
    outcomes = content["outcomes"]
    found = [f"{outcomes[name]} answers were {name}." for name in ("wrong", "5xx", "lost") if outcomes.get(name)]
    if content["workers"] != 1:
        found.append(f"There were {content['workers']} workers, one after another.")
    if content["unready"]:
        found.append(f"No worker was READY at {content['unready']} looks.")
    for name, (an_hour, least) in GROWTH.items():
        grown = content["growth"][name]
        if grown["low"] is not None and grown["low"] > an_hour and grown["rise"] > least:
            found.append(f"{name} grows by {grown['an_hour']:.1f} an hour ({grown['low']:.1f} – {grown['high']:.1f}).")
    return found


def table(content: dict[str, Any]) -> str:
    """The figures as Markdown."""
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(content["outcomes"].items()))
    lines = [
        f"{content['requests']} requests in {content['seconds'] / 60:.1f} minutes: {outcomes}.",
        "",
        "| an hour, after warm-up | slope | 95 % interval | rise |",
        "|---|---|---|---|",
    ]
    for name, grown in content["growth"].items():
        ends = "–" if grown["low"] is None else f"{grown['low']:.1f} – {grown['high']:.1f}"
        lines.append(f"| {name} | {grown['an_hour']:.1f} | {ends} | {grown['rise']:.1f} |")
    lines += ["", "| latency, ms | p50 | p95 | max |", "|---|---|---|---|"]
    for part, latency in content["latency_ms"].items():
        lines.append(f"| {part.replace('_', ' ')} | {' | '.join(f'{value:.0f}' for value in latency.values())} |")
    return "\n".join(lines)


def plot(samples: Sequence[Sample], answered: Sequence[Answered], began: float, path: Path) -> None:
    """Memory, open files and threads, and latency over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, counts, latency) = pyplot.subplots(3, sharex=True, figsize=(7, 7), layout="constrained")
    minutes = [(sample.at - began) / 60 for sample in samples]
    for name in FIGURES:
        axes = memory if name.endswith("_mb") else counts
        axes.plot(minutes, [getattr(sample, name) for sample in samples], label=name.replace("_", " "))
    latency.plot([(one.at - began) / 60 for one in answered], [1000 * one.seconds for one in answered], ".", ms=1)
    memory.set(ylabel="resident MB", ylim=(0, None))
    counts.set(ylabel="count", ylim=(0, None))
    latency.set(ylabel="latency, ms", xlabel="minutes", yscale="log")
    for axes in (memory, counts, latency):
        axes.grid(alpha=0.3)
    memory.legend(fontsize=8)
    counts.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _ends(found: Trend) -> dict[str, float | None]:
    """An interval as JSON has it, which knows no infinity."""
    known = math.isfinite(found.low)
    return {"low": found.low if known else None, "high": found.high if known else None}


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {f"p{p}": 1000 * float(np.percentile(seconds, p)) for p in (50, 95)} | {"max": 1000 * max(seconds)}


def _right(one: Answered) -> bool:
    return one.outcome in ("caption", "refused")

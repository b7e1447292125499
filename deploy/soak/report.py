"""What a soak came to: counts, growth, latency, what is wrong with it, and the plot."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.soak.load import Answered
from deploy.soak.monitor import FIGURES, Sample
from deploy.soak.trend import Trend, trend

WARM_UP = 0.2  # of the time, before latency counts
SETTLED = 0.5  # of the time, before growth counts: heaps fill for a quarter of an hour
LONG, SLOWER = 600.0, 1.5  # s, and times: latency is judged of no shorter soak
# What is called growth: from the first to the last third of the time that counts the median rises by more than so much
# an hour, and more than so much in all.
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
    settled = began + SETTLED * (ended - began)
    kept = [sample for sample in samples if sample.at >= settled]
    growth = {name: _growth(kept, name) for name in FIGURES}
    warm = began + WARM_UP * (ended - began)
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
        rise = grown["last"] - grown["first"]
        if rise > least and rise > an_hour * grown["hours"]:
            found.append(
                f"{name} grows: from {grown['first']:.1f} to {grown['last']:.1f} in {grown['hours']:.2f} hours."
            )
    first, last = content["latency_ms"].values()
    if content["seconds"] >= LONG and first and last and last["p50"] > SLOWER * first["p50"]:
        found.append(f"Answers get slower: from {first['p50']:.0f} ms to {last['p50']:.0f} ms, half of them.")
    return found


def table(content: dict[str, Any]) -> str:
    """The figures as Markdown."""
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(content["outcomes"].items()))
    lines = [
        f"{content['requests']} requests in {content['seconds'] / 60:.1f} minutes: {outcomes}.",
        "",
        "| in the last half | first third | last third | slope an hour | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    for name, grown in content["growth"].items():
        ends = "–" if grown["low"] is None else f"{grown['low']:.1f} – {grown['high']:.1f}"
        values = f"{grown['first']:.1f} | {grown['last']:.1f} | {grown['an_hour']:.1f}"
        lines.append(f"| {name} | {values} | {ends} |")
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


def _growth(samples: Sequence[Sample], name: str) -> dict[str, float | None]:
    """How a figure went: its medians in the first and the last third, the hours between these, slope and interval.

    The interval counts on values that stray about a line. Memory goes in steps, and then there may be none: that is why
    medians decide.
    """
    if not samples:
        return dict.fromkeys(("first", "last", "hours", "an_hour"), 0.0) | {"low": None, "high": None}
    values = [getattr(sample, name) for sample in samples]
    hours = [(sample.at - samples[0].at) / 3600 for sample in samples]
    third = max(1, len(values) // 3)
    found = trend(hours, values)
    medians = {"first": float(np.median(values[:third])), "last": float(np.median(values[-third:]))}
    apart = float(np.mean(hours[-third:]) - np.mean(hours[:third]))
    return medians | {"hours": apart, "an_hour": found.slope} | _ends(found)


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

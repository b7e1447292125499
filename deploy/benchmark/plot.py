"""Bar charts of measured variants: throughput with many clients and latency with few."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from deploy.benchmark.measure import VariantResult


def plot(results: Sequence[VariantResult], concurrency: Sequence[int], path: Path) -> None:
    """Plot a bar for each variant, in order from the top.

    Args:
        results: One result or more.
        concurrency: Numbers of clients: throughput is plotted for the last, latency for the first.
        path: Image file; its suffix selects the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    few, many = concurrency[0], concurrency[-1]
    names = [result.variant for result in results]
    figure, (left, right) = pyplot.subplots(
        1, 2, sharey=True, figsize=(9, 1.2 + 0.45 * len(results)), layout="constrained"
    )
    bars = left.barh(names, [result.throughput(many) for result in results], color="#3b6ea5")
    left.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    for number, result in enumerate(results):
        if result.in_process:
            label = None if left.get_legend_handles_labels()[0] else "the same in one process"
            left.plot(statistics.median(result.in_process), number, "k|", ms=14, label=label)
    bars = right.barh(names, [result.latency(few) for result in results], color="#c0703a")
    right.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    left.set(xlabel=f"captions per second, {many} clients")
    right.set(xlabel=f"median latency in ms, {few} client{'s' if few > 1 else ''}")
    left.invert_yaxis()
    for axes in (left, right):
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    if left.get_legend_handles_labels()[0]:
        left.legend(fontsize=8, frameon=False, loc="upper right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)

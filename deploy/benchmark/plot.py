"""The measured variants as a picture: captions a second, and how long one caller waits."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from deploy.benchmark.measure import Measured


def plot(found: Sequence[Measured], concurrency: Sequence[int], path: Path) -> None:
    """Bars for each variant, in their order from the top.

    Args:
        found: at least one.
        concurrency: numbers of callers; the last one's throughput is drawn, and the first one's latency.
        path: of the picture; its ending says what kind.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    few, many = concurrency[0], concurrency[-1]
    names = [measured.variant for measured in found]
    figure, (left, right) = pyplot.subplots(
        1, 2, sharey=True, figsize=(9, 1.2 + 0.45 * len(found)), layout="constrained"
    )
    bars = left.barh(names, [measured.throughput(many) for measured in found], color="#3b6ea5")
    left.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    for number, measured in enumerate(found):
        if measured.in_process:
            label = None if left.get_legend_handles_labels()[0] else "the same in one process"
            left.plot(statistics.median(measured.in_process), number, "k|", ms=14, label=label)
    bars = right.barh(names, [measured.latency(few) for measured in found], color="#c0703a")
    right.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    left.set(xlabel=f"captions a second, {many} callers")
    right.set(xlabel=f"median ms, {few} caller{'s' if few > 1 else ''}")
    left.invert_yaxis()
    for axes in (left, right):
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    if left.get_legend_handles_labels()[0]:
        left.legend(fontsize=8, frameon=False, loc="upper right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)

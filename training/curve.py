"""The picture of a run: loss by step, and validation's CIDEr and BLEU-4 by epoch."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen needed
from matplotlib import pyplot


def draw_curve(metrics: Path, picture: Path) -> None:
    """Draws `curve.png` from `metrics.jsonl`: each line has `step`, and `loss` or `CIDEr` and `Bleu_4`."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    scores = [(line["step"], line["CIDEr"], line["Bleu_4"]) for line in lines if "CIDEr" in line]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot(*zip(*losses, strict=True), linewidth=0.6, alpha=0.4, color="tab:blue", label="a step")
    window = min(50, len(losses) // 4 + 1)
    smooth = [
        (losses[i][0], sum(loss for _, loss in losses[i - window + 1 : i + 1]) / window)
        for i in range(window - 1, len(losses))
    ]
    left.plot(*zip(*smooth, strict=True), color="tab:blue", label=f"mean of {window}")
    left.set(xlabel="step", ylabel="cross-entropy (nats a token)", title="training", ylim=(0, None))
    left.legend()
    if scores:
        steps, cider, bleu = zip(*scores, strict=True)
        right.plot(steps, cider, marker="o", label="CIDEr")
        right.plot(steps, bleu, marker="o", label="BLEU-4")
        right.legend(loc="lower right")
    right.set(xlabel="step", title="validation", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)

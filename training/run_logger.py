"""Log of a run: progress bar, `metrics.jsonl`, TensorBoard, training curve and sample captions."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from eval.data import CaptionedImage
from eval.measure_table import measure_rows, table_values
from eval.measures import Measures
from eval.overuse import OverusedRun
from handler.files import atomic_write_text
from handler.image import decode_image
from training.tracking import Tracker

matplotlib.use("Agg")  # needs no display
from matplotlib import pyplot
from matplotlib.axes import Axes

NUM_SAMPLES = 8  # images per epoch
EPOCH_SCORES = {"selection": "selection", "CIDEr": "CIDEr", "Bleu_4": "BLEU-4"}
EPOCH_MEASURES = ("likeness", "words_used", "distinct", "repeats")


class RunLogger:
    """Logger of a run; only the first process has one.

    Args:
        run: Directory of the run.
        total: Number of steps of the training.
        step: Step to resume at; later entries of the log are removed.
        tracker: Where numbers are logged, too.
    """

    def __init__(self, run: Path, total: int, step: int, tracker: Tracker | None = None) -> None:
        self.run, self.metrics, self.tracker = run, run / "metrics.jsonl", tracker
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        atomic_write_text(self.metrics, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))
        self.file = self.metrics.open("a")
        self.tensorboard = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self.bar = tqdm(total=total, initial=step, desc="training", unit="step")

    def log_step(self, step: int, values: Mapping[str, float | str]) -> None:
        """Log the metrics of a step; `loss` and `reward` appear in the progress bar."""
        self._write(step, values)
        shown = {name: f"{values[name]:.3f}" for name in ("loss", "reward") if name in values}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def log_epoch(
        self, step: int, values: Mapping[str, Any], images: Sequence[CaptionedImage], captions: Sequence[str]
    ) -> None:
        """Log the scores of an epoch, and a figure of validation images with their captions."""
        self._write(step, values)
        self.bar.write(format_epoch(values))
        path = self.run / "samples" / f"epoch-{values['epoch']:02}.png"
        path.parent.mkdir(exist_ok=True)
        indices = range(0, len(images), max(1, len(images) // NUM_SAMPLES))[:NUM_SAMPLES]
        pixels = draw_samples([images[i] for i in indices], [captions[i] for i in indices], path)
        self.tensorboard.add_image("samples", pixels, step, dataformats="HWC")
        self.flush()
        draw_curve(self.metrics, self.run / "curve.png")

    def flush(self) -> None:
        """Write buffered entries to disk."""
        self.file.flush()
        self.tensorboard.flush()

    def close(self) -> None:
        """Close all files."""
        self.bar.close()
        self.file.close()
        self.tensorboard.close()
        if self.tracker:
            self.tracker.close()

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        numbers |= {f"measures/{name}": pair["model"] for name, pair in values.get("measures", {}).items()}
        for name, value in numbers.items():
            self.tensorboard.add_scalar(name, value, step)
        if self.tracker:
            self.tracker.log(step, numbers)


def format_epoch(values: Mapping[str, Any]) -> str:
    """Format the scores of an epoch in one line, with the measures that tell most beside people's in parentheses."""
    scores = [f"{label} {values[name]:.3f}" for name, label in EPOCH_SCORES.items()]
    measures = Measures({name: values["measures"][name] for name in EPOCH_MEASURES if name in values["measures"]}, [])
    worst = [OverusedRun(**run) for run in values["overused"][:1]]
    rows = measure_rows(table_values(measures._replace(overused=worst)))
    return f"epoch {values['epoch']}: " + ", ".join(
        [*scores, *(f"{label} {model} ({people})" for label, model, people in rows)]
    )


def _step_of(line: str) -> float:
    """Return the step of a log line; infinity for a line truncated by a kill."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf


def draw_samples(images: Sequence[CaptionedImage], captions: Sequence[str], path: Path) -> np.ndarray[Any, Any]:
    """Draw images with the generated caption above and a reference below, and save the figure.

    Returns:
        uint8 (H, W, 3).
    """
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(4 * columns, 4.4 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        axes.imshow(decode_image(image.path.read_bytes()))
        axes.set_title(textwrap.fill(caption, 38), fontsize=11, parse_math=False)
        reference = textwrap.fill(" ".join(image.captions[0].split()), 44)
        style = {"ha": "center", "va": "top", "fontsize": 8, "color": "gray", "parse_math": False}
        axes.text(0.5, -0.02, reference, transform=axes.transAxes, **style)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]  # Agg canvas
    pyplot.close(figure)
    Image.fromarray(pixels).save(path)
    return pixels


def draw_curve(metrics: Path, path: Path) -> None:
    """Draw the training curve from `metrics.jsonl`: loss and reward per step, scores per epoch."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    epochs = [line for line in lines if "CIDEr" in line]
    steps = [line for line in lines if "CIDEr" not in line]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    _draw_steps(left, [(line["step"], line["loss"]) for line in steps if "loss" in line], "tab:blue", "loss")
    left.set(xlabel="step", ylabel="cross-entropy (nats per token)", title="training", ylim=(0, None))
    if rewards := [(line["step"], line["reward"]) for line in steps if "reward" in line]:
        reward_axes = left.twinx()
        _draw_steps(reward_axes, rewards, "tab:green", "reward")
        lowest = min(0.0, *(reward for _, reward in rewards))  # below 0 if the penalties are large
        reward_axes.set(ylabel="reward of sampled captions", ylim=(lowest, None))
        reward_axes.legend(loc="lower right")
    left.legend(loc="lower left")
    if epochs:
        for name, label in EPOCH_SCORES.items():
            right.plot([line["step"] for line in epochs], [line[name] for line in epochs], marker="o", label=label)
        likeness = [(line["step"], line["measures"]["likeness"]) for line in epochs if "likeness" in line["measures"]]
        if likeness:
            at, pairs = zip(*likeness, strict=True)
            right.plot(at, [pair["model"] for pair in pairs], marker="o", label="likeness to people")
            right.axhline(pairs[-1]["people"], linestyle=":", color="gray", label="likeness of people")
        right.legend(loc="lower right")
    right.set(xlabel="step", title="validation", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_steps(axes: Axes, points: list[tuple[int, float]], color: str, name: str) -> None:
    if not points:
        return
    axes.plot(*zip(*points, strict=True), linewidth=0.6, alpha=0.4, color=color)
    window = min(50, len(points) // 4 + 1)
    means = np.convolve([value for _, value in points], np.ones(window) / window, "valid")
    axes.plot([step for step, _ in points][window - 1 :], means, color=color, label=f"{name}, mean of {window} steps")

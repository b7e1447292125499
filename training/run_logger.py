"""What a run shows of itself: a progress bar, `metrics.jsonl`, TensorBoard, the curve, and sample captions."""

import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from eval.coco import CaptionedImage
from handler.files import atomic_write_text
from handler.image import decode_image

matplotlib.use("Agg")  # no screen needed
from matplotlib import pyplot

SHOWN = 8  # pictures in an epoch's samples


class RunLog:
    """A run's log; only one of several processes keeps one.

    Args:
        run: the run's folder.
        total: steps in all.
        step: where the run stands; what was logged after that is forgotten.
    """

    def __init__(self, run: Path, total: int, step: int):
        self.run, self.metrics = run, run / "metrics.jsonl"
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        atomic_write_text(self.metrics, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))
        self.file = self.metrics.open("a")
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self.bar = tqdm(total=total, initial=step, desc="training", unit="step")

    def step(self, step: int, values: dict[str, float]) -> None:
        """A step's values; `loss` or `reward` goes to the bar."""
        self._write(step, values)
        shown = {name: f"{values[name]:.3f}" for name in ("loss", "reward") if name in values}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def epoch(self, step: int, values: dict, images: Sequence[CaptionedImage], captions: Sequence[str]) -> None:
        """An epoch's scores, and some of the validation split's captions beside their pictures."""
        self._write(step, values)
        self.bar.write(f"epoch {values['epoch']}: CIDEr {values['CIDEr']:.4f}, BLEU-4 {values['Bleu_4']:.4f}")
        picture = self.run / "samples" / f"epoch-{values['epoch']:02}.png"
        picture.parent.mkdir(exist_ok=True)
        some = range(0, len(images), max(1, len(images) // SHOWN))[:SHOWN]
        pixels = draw_samples([images[i] for i in some], [captions[i] for i in some], picture)
        self.board.add_image("samples", pixels, step, dataformats="HWC")
        self.flush()
        draw_curve(self.metrics, self.run / "curve.png")

    def flush(self) -> None:
        """Nothing that was logged is lost from here on."""
        self.file.flush()
        self.board.flush()

    def close(self) -> None:
        self.bar.close()
        self.file.close()
        self.board.close()

    def _write(self, step: int, values: dict) -> None:
        self.file.write(json.dumps({"step": step} | values) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self.board.add_scalar(name, value, step)


def _step_of(line: str) -> float:
    """A log line's step; a line that a kill cut short counts as never written."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def draw_samples(images: Sequence[CaptionedImage], captions: Sequence[str], picture: Path) -> np.ndarray:
    """Draws pictures with the model's caption above and a reference below.

    Returns:
        The drawing's pixels, uint8 (H, W, 3).
    """
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4 * columns, 4.4 * rows), layout="constrained", squeeze=False
    )
    for place in axes.flat:
        place.axis("off")
    for place, image, caption in zip(axes.flat, images, captions, strict=False):
        place.imshow(decode_image(image.path.read_bytes()))
        place.set_title(textwrap.fill(caption, 38), fontsize=11, parse_math=False)
        reference = textwrap.fill(" ".join(image.captions[0].split()), 44)
        style = {"ha": "center", "va": "top", "fontsize": 8, "color": "gray", "parse_math": False}
        place.text(0.5, -0.02, reference, transform=place.transAxes, **style)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    pyplot.close(figure)
    Image.fromarray(pixels).save(picture)
    return pixels


def draw_curve(metrics: Path, picture: Path) -> None:
    """Draws `curve.png` from `metrics.jsonl`: loss and reward by step, validation's CIDEr and BLEU-4 by epoch."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    scores = [(line["step"], line["CIDEr"], line["Bleu_4"]) for line in lines if "CIDEr" in line]
    steps = [line for line in lines if "CIDEr" not in line]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    _draw_steps(left, [(line["step"], line["loss"]) for line in steps if "loss" in line], "tab:blue", "loss")
    left.set(xlabel="step", ylabel="cross-entropy (nats a token)", title="training", ylim=(0, None))
    if rewards := [(line["step"], line["reward"]) for line in steps if "reward" in line]:
        beside = left.twinx()
        _draw_steps(beside, rewards, "tab:green", "reward")
        beside.set(ylabel="reward of sampled captions", ylim=(0, None))
        beside.legend(loc="lower right")
    left.legend(loc="lower left")
    if scores:
        places, cider, bleu = zip(*scores, strict=True)
        right.plot(places, cider, marker="o", label="CIDEr")
        right.plot(places, bleu, marker="o", label="BLEU-4")
        right.legend(loc="lower right")
    right.set(xlabel="step", title="validation", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def _draw_steps(axes, points: list[tuple[int, float]], color: str, name: str) -> None:
    if not points:
        return
    axes.plot(*zip(*points, strict=True), linewidth=0.6, alpha=0.4, color=color)
    window = min(50, len(points) // 4 + 1)
    means = np.convolve([value for _, value in points], np.ones(window) / window, "valid")
    axes.plot([step for step, _ in points][window - 1 :], means, color=color, label=f"{name}, mean of {window} steps")

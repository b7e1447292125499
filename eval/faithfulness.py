"""Measure the faithfulness of explanations: hide the cells with the largest weights and compare log-probabilities.

python -m eval.faithfulness pretrained ../shared/data/flickr8k val --images 200

The only module of this package that imports `handler`: it measures a model in this process, not an endpoint.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from eval.cli import cli_errors
from eval.data import CaptionedImage, read_split
from eval.markdown import markdown_table
from eval.meteor import FloatArray
from eval.significance import bootstrap_mean
from handler.captioner import Captioner
from handler.errors import BundleError, RequestError
from handler.image import decode_image

RANDOM_CHOICES = 4  # random sets of cells per image
SEED = 1


class Drops(NamedTuple):
    """Mean drop of the log-probability of a caption's tokens, in nats, for each image (images,)."""

    largest: FloatArray  # the cells with the largest weights of each token were hidden
    random: FloatArray  # as many random cells
    smallest: FloatArray  # the cells with the smallest weights


def hide_cells(pixels: torch.Tensor, cells: torch.Tensor, grid_shape: tuple[int, int]) -> torch.Tensor:
    """Replace cells of the grid by the mean color of the image.

    Args:
        pixels: (3, size, size), uint8.
        cells: Cell indices (N, hidden), one set for each copy of the image.
        grid_shape: Rows and columns of the grid.

    Returns:
        (N, 3, size, size), uint8.
    """
    rows, columns = grid_shape
    hidden = torch.zeros(len(cells), rows * columns, dtype=torch.bool).scatter_(1, cells, True)
    mask = hidden.view(-1, 1, rows, columns).float()
    mask = torch.nn.functional.interpolate(mask, pixels.shape[-2:], mode="nearest").bool()
    mean = pixels.float().mean((1, 2)).round().to(pixels.dtype).view(1, 3, 1, 1)
    return torch.where(mask, mean, pixels)


@torch.inference_mode()
def token_logprobs(captioner: Captioner, pixels: torch.Tensor, tokens: Sequence[str]) -> torch.Tensor:
    """Compute the log-probability of each token of a caption given the tokens before it.

    Args:
        captioner: The model.
        pixels: (N, 3, size, size), uint8.
        tokens: Tokens of the caption.

    Returns:
        (N, tokens).
    """
    ids = torch.tensor(captioner.vocabulary.encode(tokens))
    inputs = torch.cat([torch.tensor([captioner.vocabulary.bos_id]), ids[:-1]])
    logits: torch.Tensor = captioner.decoder(captioner.encode(pixels), inputs.expand(len(pixels), 1, -1)).logits
    targets = ids.expand(len(pixels), -1).unsqueeze(-1)
    logits = logits.view(len(pixels), -1, logits.shape[-1])  # (N, tokens, vocabulary)
    return logits.float().log_softmax(-1).gather(-1, targets).squeeze(-1)


def measure_drops(captioner: Captioner, images: Sequence[CaptionedImage], method: str, share: float) -> Drops:
    """Measure how much log-probabilities drop if a share of the cells is hidden.

    Args:
        captioner: The model.
        images: Images to caption and explain; those with an empty caption are skipped.
        method: Explanation method.
        share: Share of the cells to hide, between 0 and 1.

    Raises:
        ValueError: If an image cannot be decoded.
    """
    generator = torch.Generator().manual_seed(SEED)
    drops = []
    for image in tqdm(images, desc=method, unit="image"):
        pixels = _read_pixels(image.path, captioner)
        best = captioner.explain(image.path, method=method)[0]
        if best.attributions is None or not best.tokens:
            continue
        num_tokens, rows, columns = best.attributions.shape
        num_hidden = max(1, round(share * rows * columns))
        ranked = best.attributions.flatten(1).argsort(-1, descending=True)
        random = torch.stack(
            [torch.randperm(rows * columns, generator=generator)[:num_hidden] for _ in range(RANDOM_CHOICES)]
        )
        cells = torch.cat([ranked[:, :num_hidden], ranked[:, -num_hidden:], random])
        copies = torch.cat([pixels.unsqueeze(0), hide_cells(pixels, cells, (rows, columns))])
        original, *hidden = token_logprobs(captioner, copies, best.tokens)
        drop = original - torch.stack(hidden)  # (2 · tokens + RANDOM_CHOICES, tokens)
        index = torch.arange(num_tokens)
        largest, smallest = drop[index, index], drop[num_tokens + index, index]  # of each token, with its own cells
        drops.append([part.mean().item() for part in (largest, drop[2 * num_tokens :], smallest)])
    return Drops(*np.array(drops, dtype=float).T)


def _read_pixels(path: Path, captioner: Captioner) -> torch.Tensor:
    try:
        return captioner.config.preprocessing.resize(decode_image(path.read_bytes()))
    except RequestError as error:
        raise ValueError(f"{path}: {error}") from error


def format_drops(drops: dict[str, Drops]) -> str:
    """Format a Markdown table with a row for each method, and the 95 % interval of the difference to random cells."""
    columns = ["method", "largest weights", "random cells", "smallest weights", "largest − random"]
    rows = []
    for method, (largest, random, smallest) in drops.items():
        low, high = bootstrap_mean(largest - random, seed=SEED)
        means = (f"{values.mean():.3f}" for values in (largest, random, smallest))
        rows.append([method, *means, f"{(largest - random).mean():.3f} ({low:.3f} – {high:.3f})"])
    return markdown_table(columns, rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.faithfulness", description="Measure the faithfulness of explanations."
    )
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument(
        "data", type=Path, help="directory of the data, in the COCO layout or another one: docs/datasets.md"
    )
    parser.add_argument("split", help="e.g. val")
    parser.add_argument("--images", type=int, default=200, help="number of images, the first ones of the split")
    parser.add_argument("--share", type=float, default=0.1, help="share of the cells to hide")
    arguments = parser.parse_args()
    with cli_errors(BundleError):
        if not 0 < arguments.share < 1 or arguments.images < 1:
            raise ValueError("--share must be above 0 and below 1, --images at least 1.")
        captioner = Captioner.load(arguments.bundle)
        images = read_split(arguments.data, arguments.split)[: arguments.images]
        methods = captioner.explanation_methods
        drops = {method: measure_drops(captioner, images, method, arguments.share) for method in methods}
    print(format_drops(drops))


if __name__ == "__main__":
    main()

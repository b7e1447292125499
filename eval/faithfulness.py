"""Measures whether explanations are faithful: hides what a word is said to rest on, and sees how far the word falls.

python -m eval.faithfulness pretrained ../shared/data/flickr8k val --pictures 200
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from eval.coco import CaptionedImage, read_split
from handler.captioner import Captioner
from handler.errors import BundleError
from training.data.image_loading import load_image

DRAWS = 4  # random choices of cells for each picture
RESAMPLES, SEED = 1000, 1


def hide(pixels: torch.Tensor, cells: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Gives cells the picture's mean colour.

    Args:
        pixels: (3, size, size).
        cells: (N, hidden), places in the grid, a set for each copy.
        shape: the grid's rows and columns.

    Returns:
        (N, 3, size, size).
    """
    rows, columns = shape
    hidden = torch.zeros(len(cells), rows * columns, dtype=torch.bool).scatter_(1, cells, True)
    mask = hidden.view(-1, 1, rows, columns).float()
    mask = torch.nn.functional.interpolate(mask, pixels.shape[-2:], mode="nearest").bool()
    mean = pixels.float().mean((1, 2)).round().to(pixels.dtype).view(1, 3, 1, 1)
    return torch.where(mask, mean, pixels)


@torch.inference_mode()
def logprobs(captioner: Captioner, pixels: torch.Tensor, words: Sequence[str]) -> torch.Tensor:
    """Pictures (N, 3, size, size) → log-probability of each word of a caption, given those before it: (N, words)."""
    ids = torch.tensor(captioner.vocabulary.encode(words))
    before = torch.cat([torch.tensor([captioner.vocabulary.bos_id]), ids[:-1]])
    logits = captioner.decoder(captioner.encode(pixels), before.expand(len(pixels), 1, -1)).logits
    chosen = ids.expand(len(pixels), -1).unsqueeze(-1)
    return logits.unflatten(0, (len(pixels), -1)).float().log_softmax(-1).gather(-1, chosen).squeeze(-1)


def falls(
    captioner: Captioner, images: Sequence[CaptionedImage], method: str, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far each picture's words fall, in nats, the mean of a caption's words, when a share of cells is hidden.

    Returns:
        For each picture: the heaviest cells of each word hidden, the lightest, and as many drawn at random.
    """
    generator = torch.Generator().manual_seed(SEED)
    fallen = []
    for image in tqdm(images, desc=method, unit="picture"):
        pixels = load_image(image, captioner.config.preprocessing)
        best = captioner.explain(image.path, method=method)[0]
        words, rows, columns = best.attributions.shape
        cells = rows * columns
        if not words:
            continue
        count = max(1, round(share * cells))
        ranked = best.attributions.flatten(1).argsort(-1, descending=True)
        random = torch.stack([torch.randperm(cells, generator=generator)[:count] for _ in range(DRAWS)])
        chosen = torch.cat([ranked[:, :count], ranked[:, -count:], random])
        copies = torch.cat([pixels.unsqueeze(0), hide(pixels, chosen, (rows, columns))])
        whole, *hidden = logprobs(captioner, copies, best.tokens)
        drop = whole - torch.stack(hidden)  # (2 · words + DRAWS, words)
        own = torch.arange(words)
        fallen.append((drop[own, own].mean(), drop[words + own, own].mean(), drop[2 * words :].mean()))
    heaviest, lightest, random = np.array(fallen, dtype=float).T
    return heaviest, lightest, random


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean over pictures."""
    draws = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures whether explanations are faithful.")
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("data", type=Path, help="the folder in COCO's layout")
    parser.add_argument("split", help="such as val")
    parser.add_argument("--pictures", type=int, default=200, help="the first so many")
    parser.add_argument("--share", type=float, default=0.1, help="of the cells that are hidden")
    arguments = parser.parse_args()
    if not 0 < arguments.share < 1 or arguments.pictures < 1:
        sys.exit("--share is above 0 and below 1, and --pictures at least 1.")
    try:
        captioner = Captioner.load(arguments.bundle)
        images = read_split(arguments.data, arguments.split)[: arguments.pictures]
        measured = {
            method: falls(captioner, images, method, arguments.share) for method in captioner.explanation_methods
        }
    except (BundleError, OSError, ValueError) as error:
        sys.exit(str(error))
    print("| method | heaviest cells hidden | random ones | lightest | heaviest − random |\n|---|---|---|---|---|")
    for method, (heaviest, lightest, random) in measured.items():
        low, high = interval(heaviest - random)
        numbers = (f"{values.mean():.3f}" for values in (heaviest, random, lightest))
        print(f"| {method} | {' | '.join(numbers)} | {(heaviest - random).mean():.3f} ({low:.3f} – {high:.3f}) |")


if __name__ == "__main__":
    main()

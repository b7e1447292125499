"""Makes one bundle of several, its weights their mean: of trainings that went on from one model, each with other dice.

python -m training.average_weights runs/critical-1/bundle runs/critical-2/bundle --data ../shared/data/flickr8k --to runs/mean

Wortsman et al. 2022 ("Model soups", https://arxiv.org/abs/2203.05482): such models lie in one basin, and their mean is
better than each of them, at the cost of one.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from handler.bundle import load_bundle, save_bundle
from handler.errors import BundleError
from training.export import score_bundle


def average_bundles(bundles: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Writes the bundle whose weights are the mean of others'.

    Its configuration and its card are the first's; the card names all digests, and has no scores.

    Args:
        bundles: folders; all of one architecture, with one vocabulary and preprocessing.
        folder: of the new bundle.

    Returns:
        The card.

    Raises:
        BundleError: one is no bundle.
        ValueError: there are fewer than two, or they differ in more than their weights; the message names where.
    """
    if len(bundles) < 2:
        raise ValueError("A mean takes two bundles or more.")
    (config, weights, vocabulary), *others = map(load_bundle, bundles)
    for path, (other, some, words) in zip(bundles[1:], others, strict=True):
        for name in ("encoder", "preprocessing", "decoder"):
            if getattr(other, name) != getattr(config, name):
                raise ValueError(f"{path} has another {name} than {bundles[0]}.")
        if words.tokens != vocabulary.tokens or some.keys() != weights.keys():
            raise ValueError(f"{path} has another vocabulary than {bundles[0]}.")
    found = [weights, *(some for _, some, _ in others)]
    mean = {
        name: torch.stack([some[name] for some in found]).mean(0) if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }
    card = {name: value for name, value in config.card.items() if name != "scores"}
    card["mean_of"] = [config.digest, *(other.digest for other, _, _ in others)]
    save_bundle(folder, replace(config, card=card), mean, vocabulary)
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes one bundle of several, its weights their mean, and scores it.")
    parser.add_argument("bundles", type=Path, nargs="+", help="their folders")
    parser.add_argument("--data", type=Path, required=True, help="what they were trained on")
    parser.add_argument("--to", type=Path, required=True, help="the new bundle's folder")
    arguments = parser.parse_args()
    try:
        card = average_bundles(arguments.bundles, arguments.to)
        scores = score_bundle(arguments.to, arguments.data, card.get("training", {}).get("val_splits", ()))
    except (BundleError, OSError, ValueError) as error:
        sys.exit(str(error))
    for some in scores:
        print(f"{some['split']}: {', '.join(f'{name} {value}' for name, value in some['scores'].items())}")
    print(f"The bundle is in {arguments.to}. Serve it: make serve MODEL={arguments.to}")


if __name__ == "__main__":
    main()

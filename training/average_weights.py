"""Average the weights of several bundles into one, and score it.

python -m training.average_weights runs/a/bundle runs/b/bundle --data ../shared/data/flickr8k --output runs/mean

Models fine-tuned from the same start with other seeds are often better when averaged than each of them, at the cost of
one (Wortsman et al. 2022, "Model soups", https://arxiv.org/abs/2203.05482).
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from handler.bundle import load_bundle, save_bundle
from handler.cli import cli_errors
from training.export import score_bundle


def average_bundles(bundles: Sequence[Path], output: Path) -> dict[str, Any]:
    """Write a bundle with the mean weights of others.

    Configuration and card are those of the first bundle. The card lists all digests, and has no scores.

    Args:
        bundles: Directories of bundles with the same architecture, vocabulary and preprocessing.
        output: Directory to write.

    Returns:
        The card.

    Raises:
        BundleError: If one is not a bundle.
        ValueError: If there are fewer than two, or they differ in more than their weights.
    """
    if len(bundles) < 2:
        raise ValueError("An average needs at least two bundles.")
    (config, weights, vocabulary), *others = map(load_bundle, bundles)
    for path, (other_config, other_weights, other_vocabulary) in zip(bundles[1:], others, strict=True):
        for name in ("encoder", "preprocessing", "decoder"):
            if getattr(other_config, name) != getattr(config, name):
                raise ValueError(f"{path} has another {name} than {bundles[0]}.")
        if other_vocabulary.tokens != vocabulary.tokens or other_weights.keys() != weights.keys():
            raise ValueError(f"{path} has another vocabulary than {bundles[0]}.")
    all_weights = [weights, *(other_weights for _, other_weights, _ in others)]
    mean = {
        name: torch.stack([one[name] for one in all_weights]).mean(0) if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }
    card = {name: value for name, value in config.card.items() if name != "scores"}
    card["mean_of"] = [config.digest, *(other_config.digest for other_config, _, _ in others)]
    save_bundle(output, replace(config, card=card), mean, vocabulary)
    return card


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.average_weights",
        description="Average the weights of several bundles, and score the result.",
    )
    parser.add_argument("bundles", type=Path, nargs="+", help="directories of the bundles")
    parser.add_argument("--data", type=Path, required=True, help="data that they were trained on")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    args = parser.parse_args()
    with cli_errors(ValueError):
        card = average_bundles(args.bundles, args.output)
        results = score_bundle(args.output, args.data, card.get("training", {}).get("val_splits", ()))
    for result in results:
        print(f"{result['split']}: {', '.join(f'{name} {score}' for name, score in result['scores'].items())}")
    print(f"The bundle is in {args.output}. Serve it: make serve MODEL={args.output}")


if __name__ == "__main__":
    main()

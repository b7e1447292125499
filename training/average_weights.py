"""Average the weights of several bundles into one, and score it.

python -m training.average_weights runs/a/bundle runs/b/bundle --data ../shared/data/flickr8k --output runs/mean
python -m training.average_weights runs/a/bundle-cross_entropy runs/a/bundle --weights 0.3 0.7 --data … --output …

Models fine-tuned from the same start with other seeds are often better when averaged than each of them, at the cost of
one (Wortsman et al. 2022, "Model soups", https://arxiv.org/abs/2203.05482).

Weights between a model and one fine-tuned from it keep some of what each does well (Wortsman et al. 2022, "Robust
fine-tuning of zero-shot models", https://arxiv.org/abs/2109.01903). Between cross-entropy and a reward, they trade
likeness to people for the reward (Ramé et al. 2023, "Rewarded soups", https://arxiv.org/abs/2306.04488).
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from handler.bundle import load_bundle, save_bundle, verify_bundle
from handler.cli import add_generation_options, cli_errors, generation_config
from handler.generation import GenerationConfig
from training.export import print_scores
from training.pretrained_weights import match_tokens


def average_bundles(
    bundles: Sequence[Path],
    output: Path,
    shares: Sequence[float] | None = None,
    decoding: GenerationConfig | None = None,
) -> dict[str, Any]:
    """Write a bundle with the weighted mean of the weights of others.

    Configuration, vocabulary and card are those of the first bundle. The card lists all digests and shares, and has no
    scores. Weights of a token that another bundle does not have count as equal to those of the first bundle.

    Args:
        bundles: Directories of bundles with the same architecture and preprocessing.
        output: Directory to write.
        shares: Share of each bundle in the mean, ≥ 0; their sum is 1. Default: equal.
        decoding: Default decoding options of the new bundle. Default: those of the first one.

    Returns:
        The card.

    Raises:
        BundleError: If one is not a bundle.
        ValueError: If there are fewer than two, they differ in more than their weights, or the shares do not fit.
    """
    if len(bundles) < 2:
        raise ValueError("An average needs at least two bundles.")
    shares = shares or [1 / len(bundles)] * len(bundles)
    if len(shares) != len(bundles):
        raise ValueError(f"There are {len(shares)} weights for {len(bundles)} bundles: give one for each.")
    if min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"Weights must be at least 0 and sum to 1, not {' + '.join(f'{x:g}' for x in shares)}.")
    (config, weights, vocabulary), *others = map(load_bundle, bundles)
    for path, (other_config, other_weights, _) in zip(bundles[1:], others, strict=True):
        for name in ("encoder", "preprocessing", "decoder"):
            if getattr(other_config, name) != getattr(config, name):
                raise ValueError(f"{path} has another {name} than {bundles[0]}.")
        if other_weights.keys() != weights.keys():
            raise ValueError(f"{path} has other weights than {bundles[0]}.")
    decoder = {name: tensor for name, tensor in weights.items() if name.startswith("decoder.")}
    all_weights = [
        weights,
        *(match_tokens(decoder, vocabulary, one, its_vocabulary) for _, one, its_vocabulary in others),
    ]
    mean = {name: _mean([one[name] for one in all_weights], shares) for name in weights}
    card = {name: value for name, value in config.card.items() if name != "scores"}
    card["mean_of"] = [config.digest, *(other_config.digest for other_config, _, _ in others)]
    card["mean_shares"] = [round(share, 6) for share in shares]
    save_bundle(output, replace(config, card=card, decoding=decoding or config.decoding), mean, vocabulary)
    return card


def _mean(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """Average tensors; equal ones stay equal to the bit, so features of a frozen part that are cached stay valid."""
    first, *others = tensors
    if not first.is_floating_point() or all(torch.equal(first, other) for other in others):
        return first
    return sum((share * tensor for share, tensor in zip(shares, tensors, strict=True)), torch.zeros(()))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.average_weights",
        description="Average the weights of several bundles, and score the result.",
    )
    parser.add_argument("bundles", type=Path, nargs="+", help="directories of the bundles")
    parser.add_argument("--data", type=Path, required=True, help="data that they were trained on")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument(
        "--weights", type=float, nargs="+", metavar="W", help="weight of each bundle, from 0 to 1; default: equal"
    )
    add_generation_options(parser, exclude=["num_captions"])  # the best caption is scored
    args = parser.parse_args()
    with cli_errors(RuntimeError, ValueError):
        decoding = generation_config(args, verify_bundle(args.bundles[0]).decoding)
        card = average_bundles(args.bundles, args.output, args.weights, decoding)
        print_scores(args.output, args.data, card)


if __name__ == "__main__":
    main()

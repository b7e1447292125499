r"""Lower the output bias of words that a bundle says oftener than people do, and score the result.

python -m training.calibrate runs/mean --data ../shared/data/flickr8k --splits train ../coco/train2017 \
    --lower front=0.7 group=0.5 --output runs/calibrated

Beam search says common words oftener than people do, most of all after self-critical training. A bias against them
gives rarer words a chance at no cost in speed (logit adjustment: Menon et al. 2021, https://arxiv.org/abs/2007.07314;
for captions, Honda et al. 2023, https://arxiv.org/abs/2212.03230). Only what is overused is lowered: to raise rare
words costs CIDEr.
"""

import argparse
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eval.data import CaptionedImage, read_split
from handler.bundle import load_bundle, save_bundle, verify_bundle
from handler.captioner import Captioner
from handler.cli import add_generation_options, cli_errors, generation_config
from handler.generation import GenerationConfig
from handler.modeling.vocabulary import tokenize
from training.data.image_loading import load_images
from training.export import print_scores
from training.validate import BATCH_SIZE, default_device

BIAS = "decoder.embedding.output_bias"
SMOOTHING = 2e-4  # probability of a word; it keeps the ratio of rare words near 1
SEED = 0


def calibrate_bundle(
    bundle: Path,
    output: Path,
    data: Path,
    splits: Sequence[str],
    *,
    strength: float,
    images: int,
    lower: Mapping[str, float] = MappingProxyType({}),
    decoding: GenerationConfig | None = None,
) -> dict[str, Any]:
    """Write a bundle with a lower bias for words that the given one overuses.

    The bias of a word is lowered by `strength` · max(0, log(p_model / p_people)), where p is its relative frequency in
    all captions. The words of `lower` lose more: name those of the runs that `make validate` reports as overused, e.g.
    "front" for "in front of", since a run can be overused where its words are not.

    Args:
        bundle: Directory of the bundle.
        output: Directory to write.
        data: Directory of the data.
        splits: Training splits to count on, relative to `data`. On a validation split, its scores would say nothing.
        strength: Nats per nat of overuse, ≥ 0.
        images: Images to caption of each split, chosen with a fixed seed; all if there are fewer.
        lower: Further nats that words lose.
        decoding: Default decoding options of the new bundle. Default: those of the given one.

    Returns:
        The card.

    Raises:
        BundleError: If `bundle` is not a bundle.
        ValueError: If a number is out of its range, or a word is not in the vocabulary.
    """
    if strength < 0 or images < 1:
        raise ValueError("strength must be at least 0, and images at least 1.")
    config, weights, vocabulary = load_bundle(bundle)
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    if unknown := lower.keys() - ids.keys():
        raise ValueError(f"The bundle's vocabulary has no word '{min(unknown)}'.")
    decoding = decoding or config.decoding
    captioner = Captioner(config, weights, vocabulary, default_device())
    people: Counter[str] = Counter()
    model: Counter[str] = Counter()
    for split in splits:
        sample = _sample(read_split(data, split), images)
        people.update(word for image in sample for text in image.captions for word in tokenize(text))
        for first in range(0, len(sample), BATCH_SIZE):
            pixels = load_images(sample[first : first + BATCH_SIZE], config.preprocessing)
            for captions in captioner.caption_pixels(pixels, [decoding] * len(pixels)):
                model.update(captions[0].tokens)
    bias = weights[BIAS].float()
    for word, nats in overuse(model, people).items():
        bias[ids[word]] -= strength * nats
    for word, nats in lower.items():
        bias[ids[word]] -= nats
    weights[BIAS] = bias
    card = {name: value for name, value in config.card.items() if name != "scores"}
    card["calibration"] = {
        "of": config.digest,
        "splits": list(splits),
        "images": images,
        "strength": strength,
        "lower": dict(lower),
    }
    save_bundle(output, replace(config, card=card, decoding=decoding), weights, vocabulary)
    return card


def overuse(model: Counter[str], people: Counter[str]) -> dict[str, float]:
    """Compute max(0, log((p_model + ε) / (p_people + ε))) of each word that the model says, ε = `SMOOTHING`.

    Args:
        model: How often the model says each word.
        people: How often people do.

    Returns:
        Nats by word.
    """
    expected = {word: people[word] / people.total() + SMOOTHING for word in model}
    return {word: max(0.0, math.log((model[word] / model.total() + SMOOTHING) / expected[word])) for word in model}


def _sample(images: list[CaptionedImage], number: int) -> list[CaptionedImage]:
    """Choose images at random, the same ones for the same split."""
    ordered = sorted(images, key=lambda image: image.id)
    return random.Random(SEED).sample(ordered, min(number, len(ordered)))  # noqa: S311 -- not for cryptography


def _parse_lower(text: str) -> tuple[str, float]:
    """Parse `word=nats`."""
    word, separator, nats = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"'{text}' is not like front=0.7.")
    try:
        return word, float(nats)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{nats}' of '{text}' is no number.") from None


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.calibrate",
        description="Lower the output bias of words that a bundle says oftener than people do, and score the result.",
    )
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--data", type=Path, required=True, help="data that it was trained on")
    parser.add_argument("--splits", nargs="+", required=True, help="training splits to count on, relative to the data")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument(
        "--strength", type=float, default=0.3, help="nats that a word loses per nat of overuse; default: 0.3"
    )
    parser.add_argument(
        "--lower",
        type=_parse_lower,
        nargs="+",
        default=[],
        metavar="WORD=NATS",
        help="further nats that words lose, e.g. front=0.7 against 'in front of'",
    )
    parser.add_argument("--images", type=int, default=600, help="images to caption of each split; default: 600")
    add_generation_options(parser, exclude=["num_captions"])  # the best caption is scored
    args = parser.parse_args()
    with cli_errors(RuntimeError, ValueError):
        decoding = generation_config(args, verify_bundle(args.bundle).decoding)
        card = calibrate_bundle(
            args.bundle,
            args.output,
            args.data,
            args.splits,
            strength=args.strength,
            images=args.images,
            lower=dict(args.lower),
            decoding=decoding,
        )
        print_scores(args.output, args.data, card)


if __name__ == "__main__":
    main()

"""Export a checkpoint of a run as a bundle, and score the bundle as it will be served.

python -m training.export runs/soft_attention-lite2-flickr8k ../shared/data/flickr8k
python -m training.export runs/soft_attention-lite2-flickr8k ../shared/data/flickr8k --checkpoint best-cross_entropy
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.data import read_split
from eval.meteor import Meteor
from handler.bundle import BundleConfig, save_bundle, update_card
from handler.captioner import Captioner
from handler.cli import add_generation_options, cli_errors, generation_config
from handler.generation import GenerationConfig
from handler.modeling import build_decoder
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import Vocabulary
from training.checkpoint import copy_into, load_checkpoint
from training.config import load_config
from training.model import CaptionModel
from training.pretrained_weights import load_encoder_weights
from training.validate import default_device, qualified_split, validate_bundle


def export_bundle(
    run: Path,
    checkpoint: Path,
    bundle: Path,
    data: Path,
    meteor: Meteor | None = None,
    decoding: GenerationConfig | None = None,
) -> None:
    """Write a checkpoint as a bundle, with the scores of the validation splits on its card.

    The scores are those of the stored bundle, in half precision, from the images.

    Args:
        run: Directory of the run, with its settings and vocabulary.
        checkpoint: Any checkpoint of the run. The moving average is exported if it has one.
        bundle: Directory to write.
        data: Data that the run was trained on.
        meteor: A running METEOR, which saves ten seconds.
        decoding: Default decoding options of the bundle. Default: those of the run.
    """
    config, vocabulary = load_config(run / "settings.yaml"), Vocabulary.load(run / "vocabulary.txt")
    encoder = Encoder(config.encoder)
    load_encoder_weights(encoder, config.encoder_weights)
    decoder = build_decoder(config.decoder, len(vocabulary), encoder.channels)
    model = CaptionModel(encoder, decoder, config.preprocessing, config.unfreeze_from)
    parts, progress = load_checkpoint(checkpoint)
    copy_into(model.trainable_parameters(), parts.get("average", parts["model"]))
    train = [image for split in config.train_splits for image in read_split(data, split)]
    settings = {name: value for name, value in asdict(config).items() if name != "card"}
    training_info = {
        "checkpoint": checkpoint.stem,
        "step": int(progress["step"]),
        "minutes": round(progress["seconds"] / 60, 1),
        "data": [qualified_split(data, split) for split in config.train_splits],
        "train_images": len(train),
        "train_captions": sum(len(image.captions) for image in train),
    }
    bundle_config = BundleConfig(
        encoder=config.encoder,
        preprocessing=config.serving,
        decoder=config.decoder,
        decoding=decoding or config.decoding,
        card=config.card | {"training": settings | training_info},
    )
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    weights |= {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    save_bundle(bundle, bundle_config, weights, vocabulary)
    score_bundle(bundle, data, config.val_splits, meteor)


def score_bundle(bundle: Path, data: Path, splits: Sequence[str], meteor: Meteor | None = None) -> list[dict[str, Any]]:
    """Score a stored bundle from the images, and write the scores to its card.

    Args:
        bundle: Directory of the bundle.
        data: Directory of the data.
        splits: Splits, relative to `data`.
        meteor: A running METEOR, which saves ten seconds.

    Returns:
        The result of `validate_bundle` for each split.
    """
    captioner = Captioner.load(bundle, default_device())
    scores = [
        validate_bundle(captioner, read_split(data, split), qualified_split(data, split), meteor=meteor)[0]
        for split in splits
    ]
    update_card(bundle, {"scores": scores})
    return scores


def print_scores(bundle: Path, data: Path, card: Mapping[str, Any]) -> None:
    """Score a bundle on the validation splits of its card, and print the scores and how to serve it."""
    for result in score_bundle(bundle, data, card.get("training", {}).get("val_splits", ())):
        print(f"{result['split']}: {', '.join(f'{name} {score}' for name, score in result['scores'].items())}")
    print(f"The bundle is in {bundle}. Serve it: make serve MODEL={bundle}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export", description="Export a checkpoint of a run as a bundle, and score it."
    )
    parser.add_argument("run", type=Path, help="directory of the run")
    parser.add_argument("data", type=Path, help="data that it was trained on")
    parser.add_argument("--checkpoint", default="checkpoint", help="e.g. best-cross_entropy; default: the latest one")
    parser.add_argument("--output", type=Path, help="directory to write; default: <run>/bundle-<checkpoint>")
    add_generation_options(parser, exclude=["num_captions"])  # the best caption is scored
    args = parser.parse_args()
    checkpoint = args.run / f"{args.checkpoint.removesuffix('.safetensors')}.safetensors"
    output = args.output or args.run / f"bundle-{checkpoint.stem}"
    if not checkpoint.is_file():
        available = ", ".join(sorted(path.stem for path in args.run.glob("*.safetensors")))
        sys.exit(f"{checkpoint} is missing. Available checkpoints: {available or 'none'}.")
    with cli_errors(ModuleNotFoundError, RuntimeError, ValueError):
        decoding = generation_config(args, load_config(args.run / "settings.yaml").decoding)
        export_bundle(args.run, checkpoint, output, args.data, decoding=decoding)
    print(f"The bundle is in {output}. Serve it: make serve MODEL={output}")


if __name__ == "__main__":
    main()

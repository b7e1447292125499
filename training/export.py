"""Makes a bundle from a run's checkpoint, and scores it as it will be served.

python -m training.export runs/soft_attention-lite2-flickr8k ../shared/data/flickr8k
python -m training.export runs/soft_attention-lite2-flickr8k ../shared/data/flickr8k --checkpoint best-cross_entropy
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from eval.coco import read_split
from eval.meteor import Meteor
from handler.bundle import BundleConfig, save_bundle, update_card
from handler.captioner import Captioner
from handler.errors import BundleError
from handler.modeling import build_decoder
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import Vocabulary
from training.checkpoint import fill, load_checkpoint
from training.config import load_config
from training.model import CaptionModel
from training.pretrained_weights import load_encoder_weights
from training.validate import default_device, validate_bundle


def export_bundle(run: Path, checkpoint: Path, folder: Path, data: Path, meteor: Meteor | None = None) -> None:
    """Writes the bundle of a checkpoint, with the scores of its validation splits on its card.

    The scores are those of the bundle as it is stored, in half precision, from the pictures.

    Args:
        run: the run's folder: its settings and its vocabulary.
        checkpoint: any of the run; of the one that it goes on at, the moving average where there is one.
        folder: of the bundle.
        data: what the run was trained on.
        meteor: one that runs already, which saves ten seconds.
    """
    config, vocabulary = load_config(run / "settings.yaml"), Vocabulary.load(run / "vocabulary.txt")
    encoder = Encoder(config.encoder)
    load_encoder_weights(encoder, config.encoder_weights)
    decoder = build_decoder(config.decoder, len(vocabulary), encoder.channels)
    model = CaptionModel(encoder, decoder, config.preprocessing, config.finetune_from)
    parts, progress = load_checkpoint(checkpoint)
    fill(model.learned(), parts.get("average", parts["model"]))
    train = [image for split in config.train_splits for image in read_split(data, split)]
    settings = {name: value for name, value in asdict(config).items() if name != "card"}
    facts = {
        "checkpoint": checkpoint.stem,
        "step": int(progress["step"]),
        "minutes": round(progress["seconds"] / 60, 1),
        "data": [f"{(data / split).resolve().parent.name}/{Path(split).name}" for split in config.train_splits],
        "train_images": len(train),
        "train_captions": sum(len(image.captions) for image in train),
    }
    described = BundleConfig(
        encoder=config.encoder,
        preprocessing=config.serving,
        decoder=config.decoder,
        decoding=config.decoding,
        card=config.card | {"training": settings | facts},
    )
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    weights |= {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    save_bundle(folder, described, weights, vocabulary)
    score_bundle(folder, data, config.val_splits, meteor)


def score_bundle(folder: Path, data: Path, splits: Sequence[str], meteor: Meteor | None = None) -> list[dict]:
    """Scores a bundle as it is stored, from the pictures, and puts that on its card.

    Args:
        folder: the bundle's.
        data: the folder in COCO's layout.
        splits: of it, or relative to it.
        meteor: one that runs already, which saves ten seconds.

    Returns:
        For each split what `validate_bundle` gives.
    """
    captioner = Captioner.load(folder, default_device())
    scores = []
    for split in splits:
        name = f"{(data / split).resolve().parent.name}/{Path(split).name}"
        scores.append(validate_bundle(captioner, read_split(data, split), name, meteor=meteor)[0])
    update_card(folder, {"scores": scores})
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes a bundle from a run's checkpoint, and scores it.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("data", type=Path, help="what it was trained on")
    parser.add_argument(
        "--checkpoint", default="checkpoint", help="such as best-cross_entropy (default: where it stands)"
    )
    parser.add_argument("--to", type=Path, help="the bundle's folder (default: bundle-<checkpoint> in the run)")
    arguments = parser.parse_args()
    checkpoint = arguments.run / f"{arguments.checkpoint.removesuffix('.safetensors')}.safetensors"
    folder = arguments.to or arguments.run / f"bundle-{checkpoint.stem}"
    if not checkpoint.is_file():
        found = ", ".join(sorted(path.stem for path in arguments.run.glob("*.safetensors")))
        sys.exit(f"There is no {checkpoint}. Checkpoints found there: {found or 'none'}.")
    try:
        export_bundle(arguments.run, checkpoint, folder, arguments.data)
    except (BundleError, ModuleNotFoundError, OSError, ValueError) as error:
        sys.exit(str(error))
    print(f"The bundle is in {folder}. Serve it: make serve MODEL={folder}")


if __name__ == "__main__":
    main()

"""Score a bundle on a split, from the images, in this process.

python -m training.validate pretrained ../shared/data/flickr8k val
python -m training.validate pretrained ../shared/data/flickr8k val --captions captions.json
"""

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from eval.data import CaptionedImage, read_split
from eval.meteor import Meteor
from eval.preflight import check_metrics
from eval.summary import format_summary, round_floats, summarize
from handler.captioner import Captioner
from handler.cli import add_generation_options, cli_errors, generation_config
from handler.files import atomic_write_text
from handler.generation import GENERATION_OPTIONS, GenerationConfig
from training.data.image_loading import load_images

BATCH_SIZE = 50
# Options that are always in a signature, and those that change no caption: one caption is scored.
SIGNED = {"beam_size", "temperature", "top_p", "seed", "length_penalty", "min_length", "max_length", "no_repeat_ngram"}
UNSIGNED = {"num_captions", "attention"}


def default_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def qualified_split(data: Path, split: str) -> str:
    """Return the name of a split in signatures: `<name of the data directory>/<split>`."""
    return f"{(data / split).resolve().parent.name}/{Path(split).name}"


def describe_decoding(options: GenerationConfig) -> str:
    """Format decoding options for a signature."""
    search = f"beam:{options.beam_size}"
    if options.do_sample:
        search = f"temperature:{options.temperature}|top_p:{options.top_p}|seed:{options.seed}"
    shown = (
        f"{search}|lp:{options.length_penalty}|length:{options.min_length}-{options.max_length}"
        f"|ngram:{options.no_repeat_ngram}"
    )
    # Any other option that may change a caption has to be in the signature, too.
    others = {name: getattr(options, name) for name in GENERATION_OPTIONS if name not in SIGNED | UNSIGNED}
    return shown + "".join(
        f"|{name}:{value}" for name, value in others.items() if value != GENERATION_OPTIONS[name].default
    )


def validate_bundle(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    split: str,
    options: GenerationConfig | None = None,
    features: np.ndarray[Any, Any] | None = None,
    meteor: Meteor | None = None,
) -> tuple[dict[str, Any], dict[int, str]]:
    """Caption the images of a split with a bundle, and score the captions.

    Args:
        captioner: The loaded bundle.
        images: The split.
        split: Name of the split in the signature.
        options: Decoding options; default: those of the bundle.
        features: Encoder features (images, cells, channels); default: computed from the images.
        meteor: A running METEOR, which saves ten seconds.

    Returns:
        The split and the content of `eval.summary.summarize`, and the captions by image ID.
    """
    options = options or captioner.config.decoding
    captions: dict[int, str] = {}
    for first in tqdm(range(0, len(images), BATCH_SIZE), desc=f"captioning {split}", unit="batch"):
        batch = images[first : first + BATCH_SIZE]
        if features is None:
            grid = captioner.encode(load_images(batch, captioner.config.preprocessing))
        else:
            grid = torch.from_numpy(np.float32(features[first : first + BATCH_SIZE])).to(captioner.device)
        for image, best in zip(batch, captioner.caption_features(grid, [options] * len(batch)), strict=True):
            captions[image.id] = best[0].text
    decoding = f"{describe_decoding(options)}|{captioner.config.digest[:19]}"
    with nullcontext(meteor) if meteor else Meteor() as process:
        _, content = summarize(split, images, captions, decoding, meteor=process)
    return {"split": split} | round_floats(content, 4), captions


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.validate", description="Score a bundle on a split, in this process."
    )
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument(
        "data", type=Path, help="directory of the data, in the COCO layout or another one: docs/datasets.md"
    )
    parser.add_argument("split", help="e.g. val")
    parser.add_argument("--captions", type=Path, help="write the captions to this file, in the COCO results format")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_generation_options(parser, exclude=["num_captions"])  # the best caption is scored
    args = parser.parse_args()
    with cli_errors(RuntimeError, ValueError):
        captioner = Captioner.load(args.bundle, default_device())
        options = generation_config(args, captioner.config.decoding)
        images = read_split(args.data, args.split)
        split = f"{args.data.resolve().name}/{args.split}"
        with Meteor() as meteor:
            check_metrics(meteor)
            result, captions = validate_bundle(captioner, images, split, options, meteor=meteor)
        if args.captions:
            results = [{"image_id": image_id, "caption": caption} for image_id, caption in captions.items()]
            atomic_write_text(args.captions, json.dumps(results, indent=1))
    print(json.dumps(result, indent=2) if args.json else f"{format_summary(result)}\n\n{result['signature']}")


if __name__ == "__main__":
    main()

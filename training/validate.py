"""Scores a bundle on a split, from the pictures, in this process.

python -m training.validate pretrained ../shared/data/flickr8k val
python -m training.validate pretrained ../shared/data/flickr8k val --captions captions.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from eval.coco import CaptionedImage, read_split
from eval.endings import bad_endings
from eval.meteor import Meteor
from eval.metrics import score_captions, signature
from handler.captioner import Captioner
from handler.errors import BundleError
from handler.generation import GenerationConfig
from handler.serving.options import RANGES
from training.data.feature_cache import read_batch

BATCH = 50


def default_device() -> torch.device:
    """Where a bundle is scored: a GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_decoding(options: GenerationConfig) -> str:
    """The decoding options as a signature names them."""
    way = f"beam:{options.beam_size}"
    if options.do_sample:
        way = f"temperature:{options.temperature}|top_p:{options.top_p}|seed:{options.seed}"
    return (
        f"{way}|lp:{options.length_penalty}|length:{options.min_length}-{options.max_length}"
        f"|ngram:{options.no_repeat_ngram}"
    )


def validate_bundle(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    split: str,
    options: GenerationConfig | None = None,
    grids: np.ndarray | None = None,
    meteor: Meteor | None = None,
) -> tuple[dict[str, Any], dict[int, str]]:
    """Captions a split's pictures with a bundle and scores the captions.

    Args:
        captioner: the bundle, loaded.
        images: the split.
        split: its name in the signature.
        options: of decoding; left out, the bundle's own.
        grids: (images, cells, channels) of the bundle's encoder, where they are known; else the pictures are read.
        meteor: one that runs already, which saves ten seconds.

    Returns:
        `{"split", "n", "scores", "bad_endings", "signature"}`, and the captions by image id.
    """
    options = options or captioner.config.decoding
    captions: dict[int, str] = {}
    for first in tqdm(range(0, len(images), BATCH), desc=f"captioning {split}", unit="batch"):
        batch = images[first : first + BATCH]
        if grids is None:
            grid = captioner.encode(read_batch(batch, captioner.config.preprocessing))
        else:
            grid = torch.from_numpy(np.float32(grids[first : first + BATCH])).to(captioner.device)
        for image, found in zip(batch, captioner.caption_features(grid, [options] * len(batch)), strict=True):
            captions[image.id] = found[0].text
    references = {image.id: image.captions for image in images}
    scores = score_captions(references, captions, meteor=meteor or True)
    decoding = f"{describe_decoding(options)}|{captioner.config.digest[:19]}"
    result = {
        "split": split,
        "n": len(images),
        "scores": {name: round(score, 4) for name, score in scores.items()},
        "bad_endings": round(bad_endings(captions.values()), 4),
        "signature": signature(split, references, decoding),
    }
    return result, captions


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores a bundle on a split, in this process.")
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("data", type=Path, help="the folder in COCO's layout")
    parser.add_argument("split", help="such as val")
    for name, (low, _) in RANGES.items():
        if name != "num_captions":
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(low), help="left out, the bundle's own")
    parser.add_argument("--captions", type=Path, help="write the captions there, in COCO's results format")
    arguments = parser.parse_args()
    asked = {name: getattr(arguments, name, None) for name in RANGES}
    try:
        captioner = Captioner.load(arguments.bundle, default_device())
        options = replace(
            captioner.config.decoding, **{name: value for name, value in asked.items() if value is not None}
        )
        images = read_split(arguments.data, arguments.split)
        split = f"{arguments.data.resolve().name}/{arguments.split}"
        result, captions = validate_bundle(captioner, images, split, options)
    except (BundleError, FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    if arguments.captions:
        results = [{"image_id": index, "caption": caption} for index, caption in captions.items()]
        arguments.captions.write_text(json.dumps(results, indent=1))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

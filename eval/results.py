"""Results of runs: caption files in the COCO results format, and names and digests of splits."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.data import CaptionedImage
from eval.fields import describe_error, parse_caption, parse_image_id, read_json
from eval.files import atomic_write_text

RESULTS = Path("eval/results")  # one directory per run


def split_name(data: Path, split: str, limit: int | None = None) -> str:
    """Return a split's name in signatures, e.g. `flickr8k/val`, or `coco/val2017[:500]` for the first 500 images."""
    return f"{data.resolve().name}/{split}" + (f"[:{limit}]" if limit else "")


def split_digest(images: Sequence[CaptionedImage]) -> str:
    """Return `sha256:` and the hex digest over the ids and reference captions of a split."""
    content = json.dumps([[image.id, image.captions] for image in images])
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def read_results(path: Path) -> dict[int, str]:
    """Read captions by image id from a COCO results file, `[{"image_id": 42, "caption": "a dog"}]`.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If the file has another format or two captions for an image.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The results file {path} is missing.")
    try:
        pairs = [(parse_image_id(entry["image_id"]), parse_caption(entry["caption"])) for entry in read_json(path)]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not in the COCO results format: {describe_error(error)}.") from error
    captions = dict(pairs)
    if differing := {image for image, caption in pairs if captions[image] != caption}:
        raise ValueError(f"{path} has several captions for {len(differing)} images, e.g. for image {min(differing)}.")
    return captions


def write_results(path: Path, captions: Mapping[int, str]) -> None:
    """Write captions by image id as a COCO results file."""
    entries = [{"image_id": image, "caption": caption} for image, caption in captions.items()]
    atomic_write_text(path, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")

"""Results of runs: caption files in the COCO results format, and names and digests of splits."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.coco import CaptionedImage
from eval.files import atomic_write_text

RESULTS = Path("eval/results")  # one directory per run


def split_name(data: Path, split: str) -> str:
    """Return the name of a split in signatures: data set and split, e.g. `flickr8k/val`."""
    return f"{data.resolve().name}/{split}"


def split_digest(images: Sequence[CaptionedImage]) -> str:
    """Return `sha256:` and the hex digest over the ids and reference captions of a split."""
    content = json.dumps([[image.id, image.captions] for image in images])
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def read_results(path: Path) -> dict[int, str]:
    """Read captions by image id from a COCO results file, `[{"image_id": 42, "caption": "a dog"}]`.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If the file has another format or an image id occurs twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The results file {path} is missing.")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(entry["image_id"], entry["caption"]) for entry in entries]
        if not all(isinstance(caption, str) for _, caption in pairs):
            raise TypeError("a caption is not a string")
        captions = dict(pairs)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not in the COCO results format: {error!r}.") from error
    if len(captions) < len(pairs):
        raise ValueError(f"{path} has {len(pairs) - len(captions)} duplicate image ids.")
    return captions


def write_results(path: Path, captions: Mapping[int, str]) -> None:
    """Write captions by image id as a COCO results file."""
    entries = [{"image_id": image, "caption": caption} for image, caption in captions.items()]
    atomic_write_text(path, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")

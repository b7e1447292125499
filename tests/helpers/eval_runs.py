"""Evaluation runs of a small split through a server."""

import json
import sys
from pathlib import Path

from PIL import Image

from deploy.torchserve import TorchServe
from tests.helpers.paths import PHOTOS


def write_split(root: Path, count: int) -> Path:
    """Write the split `many` in COCO's layout: images cut from the sample photos.

    Returns:
        `root`.
    """
    (root / "many").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for number in range(count):
        with Image.open(PHOTOS[number % len(PHOTOS)]) as photo:
            side = min(photo.size) // 2
            left = (photo.width - side) * number // count
            photo.convert("RGB").crop((left, 0, left + side, side)).save(root / "many" / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg"})
        annotations.append({"id": number, "image_id": number, "caption": f"a dog runs through the grass {number}"})
    content = {"images": images, "annotations": annotations}
    (root / "annotations" / "captions_many.json").write_text(json.dumps(content))
    return root


def eval_command(server: TorchServe, split: Path, results: Path, name: str) -> list[str]:
    """Return the command that captions the split `many`; without METEOR, whose start takes longer than the rest."""
    arguments = [split, "many", "--endpoint", server.inference, "--results", results, "--run", name, "--concurrency", 4]
    return [sys.executable, "-m", "eval.run", *map(str, arguments), "--retries", "12", "--no-meteor"]

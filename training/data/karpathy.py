"""Convert the Karpathy splits of COCO 2014, the usual benchmark of captioning, to the COCO layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from handler.files import atomic_write_text

SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}  # restval is trained on, as is usual

T = TypeVar("T")


def write_karpathy_splits(source: Path, annotations: Path) -> list[Path]:
    """Write `captions_karpathy_train.json` (train and restval), `…_val.json` and `…_test.json`.

    Args:
        source: Karpathy's `dataset_coco.json`.
        annotations: The directory `annotations/` of the COCO layout; created if missing.

    Returns:
        The files written.

    Raises:
        ValueError: If the source has another format.
    """
    try:
        splits = convert_karpathy(json.loads(source.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source} is not in the format of the Karpathy splits: {error!r}.") from error
    annotations.mkdir(parents=True, exist_ok=True)
    written = []
    for split, content in splits.items():
        path = annotations / f"captions_karpathy_{split}.json"
        atomic_write_text(path, json.dumps(content, ensure_ascii=False))
        written.append(path)
    return written


def convert_karpathy(content: Mapping[str, Any]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Convert to `train`, `val` and `test` in the COCO format, in the original order.

    The image ID is the COCO ID. The file name includes its directory, because a split has images of two directories.
    The caption is the raw sentence, not Karpathy's tokens.

    Raises:
        ValueError: If an image occurs twice.
        KeyError: If a field is missing or a split is unknown.
        TypeError: If a field has another type.
    """
    splits: dict[str, dict[str, list[dict[str, Any]]]] = {
        name: {"images": [], "annotations": []} for name in SPLITS.values()
    }
    seen = set()
    for image in content["images"]:
        image_id, split = _typed(image, "cocoid", int), splits[SPLITS[image["split"]]]
        if image_id in seen:
            raise ValueError(f"image {image_id} occurs twice")
        seen.add(image_id)
        name = f"{_typed(image, 'filepath', str)}/{_typed(image, 'filename', str)}"
        split["images"].append({"id": image_id, "file_name": name})
        for sentence in image["sentences"]:
            split["annotations"].append(
                {"id": _typed(sentence, "sentid", int), "image_id": image_id, "caption": _typed(sentence, "raw", str)}
            )
    return splits


def _typed(entry: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = entry[name]
    if not isinstance(value, kind):
        raise TypeError(f"{name} is no {kind.__name__} in {entry}")
    return value

"""Karpathy's splits of COCO 2014, on which captioners are compared, turned into COCO's layout."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}  # his name → the usual use of it


def write_karpathy_splits(source: Path, annotations: Path) -> list[Path]:
    """Writes `captions_karpathy_train.json` (his train and restval), `…_val.json` and `…_test.json`, each whole.

    Args:
        source: his `dataset_coco.json`.
        annotations: the folder `annotations/` of COCO's layout; made where it is missing.

    Returns:
        The files.

    Raises:
        ValueError: the source is not in his format.
    """
    try:
        splits = convert_karpathy(json.loads(source.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source} is not in the format of Karpathy's splits: {error!r}.") from error
    annotations.mkdir(parents=True, exist_ok=True)
    written = []
    for split, content in splits.items():
        path = annotations / f"captions_karpathy_{split}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        os.replace(partial, path)
        written.append(path)
    return written


def convert_karpathy(content: Mapping[str, Any]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Karpathy's format → `train`, `val` and `test` in COCO's, all in his order.

    A picture's id is its COCO id, and its name has its folder before it, as both folders' pictures are in one split.
    A caption is the sentence as it was written, not his tokens.

    Raises:
        ValueError, KeyError, TypeError: it is not in his format, or names a picture twice.
    """
    splits: dict[str, dict[str, list]] = {name: {"images": [], "annotations": []} for name in SPLITS.values()}
    seen = set()
    for image in content["images"]:
        index, split = _typed(image, "cocoid", int), splits[SPLITS[image["split"]]]
        if index in seen:
            raise ValueError(f"picture {index} comes twice")
        seen.add(index)
        name = f"{_typed(image, 'filepath', str)}/{_typed(image, 'filename', str)}"
        split["images"].append({"id": index, "file_name": name})
        for sentence in image["sentences"]:
            split["annotations"].append(
                {"id": _typed(sentence, "sentid", int), "image_id": index, "caption": _typed(sentence, "raw", str)}
            )
    return splits


def _typed(entry: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(entry[name], kind):
        raise TypeError(f"{name} is no {kind.__name__} in {entry}")
    return entry[name]

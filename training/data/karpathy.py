"""Convert Karpathy's splits of COCO, Flickr8k and Flickr30k, the usual benchmarks of captioning, to the COCO layout.

Karpathy and Fei-Fei 2015. An image has its COCO ID, or in Flickr its number in the file. The caption is the raw
sentence, not Karpathy's tokens.
"""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}  # restval is trained on, as is usual

T = TypeVar("T")
CocoSplit = dict[str, list[dict[str, Any]]]


def convert_coco(content: Mapping[str, Any], val2017: CocoSplit) -> dict[str, CocoSplit]:
    """Convert `dataset_coco.json`; the images are those of 2017, which are the same as those of 2014.

    Args:
        content: The JSON content.
        val2017: Content of `captions_val2017.json`.

    Returns:
        `karpathy_train` (train and restval), `karpathy_val`, `karpathy_test`, and `karpathy_val2017`: val2017 without
        the images of `karpathy_train`, in the COCO format and in the original order. File names are
        `<directory>/<name>`, because a split has images of two directories.

    Raises:
        ValueError: If the content has another format.
    """
    val_ids = {image["id"] for image in val2017["images"]}
    splits = _convert(content, "cocoid", lambda image: _file_name_2017(_typed(image, "cocoid", int), val_ids))
    trained = {image["id"] for image in splits["train"]["images"]}
    clean = {
        "images": [_renamed(image, val_ids) for image in val2017["images"] if image["id"] not in trained],
        "annotations": [item for item in val2017["annotations"] if item["image_id"] not in trained],
    }
    return {f"karpathy_{name}": split for name, split in (splits | {"val2017": clean}).items()}


def convert_flickr(content: Mapping[str, Any]) -> dict[str, CocoSplit]:
    """Convert `dataset_flickr8k.json` or `dataset_flickr30k.json` to `train`, `val` and `test`; see `convert_coco`.

    File names are `images/<name>`.
    """
    return _convert(content, "imgid", lambda image: f"images/{_typed(image, 'filename', str)}")


def _convert(content: Mapping[str, Any], id_field: str, file_name: Any) -> dict[str, CocoSplit]:  # noqa: ANN401
    """Convert the images of all splits; `file_name` maps an image to its file."""
    splits: dict[str, CocoSplit] = {name: {"images": [], "annotations": []} for name in SPLITS.values()}
    seen = set()
    try:
        for image in content["images"]:
            image_id, split = _typed(image, id_field, int), splits[SPLITS[image["split"]]]
            if image_id in seen:
                raise ValueError(f"image {image_id} occurs twice")
            seen.add(image_id)
            split["images"].append({"id": image_id, "file_name": file_name(image)})
            for item in image["sentences"]:
                caption = {"image_id": image_id, "caption": _typed(item, "raw", str)}
                split["annotations"].append({"id": _typed(item, "sentid", int)} | caption)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"These are not Karpathy's splits: {error!r}.") from error
    return splits


def _file_name_2017(image_id: int, val_ids: Collection[int]) -> str:
    return f"{'val2017' if image_id in val_ids else 'train2017'}/{image_id:012d}.jpg"


def _renamed(image: dict[str, Any], val_ids: Collection[int]) -> dict[str, Any]:
    return image | {"file_name": _file_name_2017(image["id"], val_ids)}


def _typed(entry: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = entry[name]
    if not isinstance(value, kind):
        raise TypeError(f"{name} is no {kind.__name__} in {entry}")
    return value

"""Conversion of the Karpathy splits."""

import json

import pytest

from training.data.karpathy import convert_karpathy, write_karpathy_splits

KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filepath": directory,
            "filename": f"COCO_{directory}_{index:012d}.jpg",
            "cocoid": index,
            "imgid": order,
            "split": split,
            "sentids": [10 * index, 10 * index + 1],
            "sentences": [
                {
                    "raw": f"Image {index}, seen.",
                    "tokens": ["image", str(index), "seen"],
                    "imgid": order,
                    "sentid": 10 * index,
                },
                {"raw": f"A café, no. {index} ", "tokens": ["a"], "imgid": order, "sentid": 10 * index + 1},
            ],
        }
        for order, (index, directory, split) in enumerate(
            [
                (9, "train2014", "train"),
                (42, "val2014", "restval"),
                (73, "val2014", "val"),
                (74, "val2014", "test"),
                (25, "train2014", "train"),
            ]
        )
    ],
}


def test_convert_karpathy_each_image_is_in_one_split():
    splits = convert_karpathy(KARPATHY)
    assert {name: [image["id"] for image in split["images"]] for name, split in splits.items()} == {
        "train": [9, 42, 25],  # train and restval
        "val": [73],
        "test": [74],
    }
    assert {name: len(split["annotations"]) for name, split in splits.items()} == {"train": 6, "val": 2, "test": 2}


def test_write_karpathy_splits_keeps_directories_and_raw_sentences(tmp_path):
    (tmp_path / "dataset_coco.json").write_text(json.dumps(KARPATHY))
    written = write_karpathy_splits(tmp_path / "dataset_coco.json", tmp_path / "annotations")
    assert [path.name for path in written] == [f"captions_karpathy_{split}.json" for split in ("train", "val", "test")]
    assert json.loads(written[2].read_text(encoding="utf-8")) == {
        "images": [{"id": 74, "file_name": "val2014/COCO_val2014_000000000074.jpg"}],
        "annotations": [
            {"id": 740, "image_id": 74, "caption": "Image 74, seen."},
            {"id": 741, "image_id": 74, "caption": "A café, no. 74 "},
        ],
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"split": "dev"}, "KeyError.'dev'"),
        ({"cocoid": "9"}, "cocoid is no int"),
        ({"sentences": [{"raw": None, "sentid": 1}]}, "raw is no str"),
        ({"cocoid": 42}, "image 42 occurs twice"),
    ],
)
def test_write_karpathy_splits_other_format_is_refused(tmp_path, change, reason):
    images = [KARPATHY["images"][0] | change, *KARPATHY["images"][1:]]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    with pytest.raises(ValueError, match=rf"is not in the format of the Karpathy splits: .*{reason}"):
        write_karpathy_splits(tmp_path / "dataset_coco.json", tmp_path / "annotations")
    assert [path.name for path in tmp_path.iterdir()] == ["dataset_coco.json"]

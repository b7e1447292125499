"""Conversion of Karpathy's splits."""

import pytest

from training.data.karpathy import convert_coco, convert_flickr


def image(order, image_id, directory, split):
    return {
        "filepath": directory,
        "filename": f"COCO_{directory}_{image_id:012d}.jpg",
        "cocoid": image_id,
        "imgid": order,
        "split": split,
        "sentids": [10 * image_id, 10 * image_id + 1],
        "sentences": [
            {"raw": f"Image {image_id}, seen.", "tokens": ["image"], "imgid": order, "sentid": 10 * image_id},
            {"raw": f"A café, no. {image_id} ", "tokens": ["a"], "imgid": order, "sentid": 10 * image_id + 1},
        ],
    }


KARPATHY = {
    "dataset": "coco",
    "images": [
        image(0, 9, "train2014", "train"),
        image(1, 42, "val2014", "restval"),
        image(2, 73, "val2014", "val"),
        image(3, 74, "val2014", "test"),
        image(4, 25, "train2014", "train"),
    ],
}
# Of COCO's val2017, image 42 is trained on by Karpathy, 73 is not.
VAL2017 = {
    "images": [
        {"id": 42, "file_name": "000000000042.jpg", "width": 640},
        {"id": 73, "file_name": "000000000073.jpg", "width": 480},
    ],
    "annotations": [{"id": 1, "image_id": 42, "caption": "A train."}, {"id": 2, "image_id": 73, "caption": "A cat."}],
}


def test_convert_coco_each_image_is_in_one_split():
    splits = convert_coco(KARPATHY, VAL2017)
    assert {name: [image["id"] for image in split["images"]] for name, split in splits.items()} == {
        "karpathy_train": [9, 42, 25],  # train and restval
        "karpathy_val": [73],
        "karpathy_test": [74],
        "karpathy_val2017": [73],
    }
    assert [len(split["annotations"]) for split in splits.values()] == [6, 2, 2, 1]


def test_convert_coco_names_images_of_2017_and_keeps_raw_sentences():
    splits = convert_coco(KARPATHY, VAL2017)
    assert splits["karpathy_test"] == {
        "images": [{"id": 74, "file_name": "train2017/000000000074.jpg"}],
        "annotations": [
            {"id": 740, "image_id": 74, "caption": "Image 74, seen."},
            {"id": 741, "image_id": 74, "caption": "A café, no. 74 "},
        ],
    }
    assert splits["karpathy_val"]["images"] == [{"id": 73, "file_name": "val2017/000000000073.jpg"}]
    assert splits["karpathy_val2017"] == {
        "images": [{"id": 73, "file_name": "val2017/000000000073.jpg", "width": 480}],
        "annotations": [{"id": 2, "image_id": 73, "caption": "A cat."}],
    }


def test_convert_flickr_has_own_ids_and_names():
    """Flickr8k and Flickr30k have neither COCO's ids nor directories."""
    images = [
        {key: value for key, value in item.items() if key not in ("cocoid", "filepath")} for item in KARPATHY["images"]
    ]
    images = [item | {"split": "train" if item["split"] == "restval" else item["split"]} for item in images]
    splits = convert_flickr({"dataset": "flickr8k", "images": images})
    assert {name: [image["id"] for image in split["images"]] for name, split in splits.items()} == {
        "train": [0, 1, 4],
        "val": [2],
        "test": [3],
    }
    assert splits["val"]["images"] == [{"id": 2, "file_name": "images/COCO_val2014_000000000073.jpg"}]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"split": "dev"}, "KeyError.'dev'"),
        ({"cocoid": "9"}, "cocoid is no int"),
        ({"sentences": [{"raw": None, "sentid": 1}]}, "raw is no str"),
        ({"cocoid": 42}, "image 42 occurs twice"),
    ],
)
def test_convert_coco_other_format_is_refused(change, reason):
    images = [KARPATHY["images"][0] | change, *KARPATHY["images"][1:]]
    with pytest.raises(ValueError, match=rf"These are not Karpathy's splits: .*{reason}"):
        convert_coco({"images": images}, VAL2017)

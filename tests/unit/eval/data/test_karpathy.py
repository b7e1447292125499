"""Karpathy's files, read as they are."""

import json

import pytest

from eval.data import read_split


def entry(number, split, **more):
    sentences = [{"tokens": ["a"], "raw": f"A dog {number} .", "imgid": number, "sentid": number}]
    return {
        "imgid": number,
        "filename": f"{number}.jpg",
        "split": split,
        "sentids": [number],
        "sentences": sentences,
    } | more


def write(directory, *images, name="dataset_flickr8k.json"):
    (directory / name).write_text(json.dumps({"dataset": "flickr8k", "images": images}, indent=1))


def test_read_split_train_includes_restval(tmp_path, capsys):
    write(tmp_path, entry(0, "train"), entry(1, "restval"), entry(2, "val"), entry(3, "test"))
    (tmp_path / "Flicker8k_Dataset").mkdir()
    for number in range(4):
        (tmp_path / "Flicker8k_Dataset" / f"{number}.jpg").touch()
    ids = {
        split: [image.id for image in read_split(tmp_path, split)]
        for split in ("train", "restval", "val", "test", "all")
    }
    assert ids == {"train": [0, 1], "restval": [1], "val": [2], "test": [3], "all": [0, 1, 2, 3]}
    said = capsys.readouterr().err
    assert "2 images with 2 captions (1 each), Karpathy's layout; 1 images of restval, which are part of train." in said
    [image] = read_split(tmp_path / "dataset_flickr8k.json", "val")  # the file can be named instead
    assert (image.path, image.captions) == (tmp_path / "Flicker8k_Dataset" / "2.jpg", ("A dog 2 .",))


@pytest.mark.parametrize("directory", ["val2014", "images/val2014"])
def test_read_split_coco_has_its_ids_and_directories(tmp_path, directory):
    write(tmp_path, entry(0, "val", cocoid=42, filepath="val2014"), name="dataset_coco.json")
    (tmp_path / directory).mkdir(parents=True)
    (tmp_path / directory / "0.jpg").touch()
    [image] = read_split(tmp_path, "val")
    assert (image.id, image.path) == (42, tmp_path / directory / "0.jpg")


def test_read_split_missing_image_names_the_directory_looked_in(tmp_path):
    write(tmp_path, entry(0, "train", cocoid=42, filepath="val2014"), name="dataset_coco.json")
    with pytest.raises(FileNotFoundError, match=r"1 captioned images, of which 1 are missing: .*val2014/0\.jpg\. Copy"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"imgid": 0}, r"line \d+, images\[1\]: the image id 0 occurs twice"),
        ({"imgid": "1"}, r"line \d+, images\[1\]: the image id '1' is text"),
        ({"filename": "0.jpg"}, r"line \d+, images\[1\]: the image '0.jpg' occurs twice, first in line 4, images\[0\]"),
        ({"sentences": [{"raw": ""}]}, r"line \d+, images\[1\]: the caption is empty"),
        ({"sentences": [{}]}, r"line \d+, images\[1\]: the caption None is not text"),
    ],
)
def test_read_split_broken_entry_is_refused_with_its_line(tmp_path, image, message):
    write(tmp_path, entry(0, "val"), entry(1, "val") | image)
    with pytest.raises(ValueError, match=r"dataset_flickr8k\.json, " + message):
        read_split(tmp_path, "val", require_images=False)


def test_read_split_without_a_field_is_refused(tmp_path):
    write(tmp_path, {"imgid": 0, "split": "val", "sentences": []})
    with pytest.raises(ValueError, match="the entry has no 'filename'"):
        read_split(tmp_path, "val")
    (tmp_path / "dataset_flickr8k.json").write_text("[]")
    with pytest.raises(ValueError, match="is not in Karpathy's layout: it has no list 'images'"):
        read_split(tmp_path, "val")

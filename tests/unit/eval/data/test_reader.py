"""Which layout of several is read, and what is said when there is none."""

import json

import pytest

from eval.data import read_split
from eval.data.text import entry_line


def test_read_split_nothing_there_says_what_can_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no split 'val' in .*absent: .* is missing"):
        read_split(tmp_path / "absent", "val")
    with pytest.raises(FileNotFoundError, match=r"it has none of annotations/captions_<split>\.json, .*captions\.txt"):
        read_split(tmp_path, "val")
    (tmp_path / "notes.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="is not a table: its first line needs the columns file_name and caption"):
        read_split(tmp_path / "notes.csv", "val")


def test_read_split_layouts_side_by_side_are_all_read(tmp_path):
    """COCO's annotations come first; a split that they lack is taken from the other files."""
    (tmp_path / "annotations").mkdir()
    coco = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}
    (tmp_path / "annotations" / "captions_val.json").write_text(json.dumps(coco))
    image = {"imgid": 7, "filename": "a.jpg", "sentences": [{"raw": "a cat"}]}
    karpathy = {"images": [image | {"split": "val"}, image | {"split": "test", "imgid": 8}]}
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps(karpathy))
    ids = {
        split: [image.id for image in read_split(tmp_path, split, require_images=False)] for split in ("val", "test")
    }
    assert ids == {"val": [1], "test": [8]}
    with pytest.raises(FileNotFoundError, match=r"annotations has val; .*dataset_flickr8k\.json has val, test, all\."):
        read_split(tmp_path, "train")


def test_entry_line_counts_lines_before_an_entry():
    text = '{\n "info": {"a": [1, 2]},\n "images":\n [\n  {"id": 1},\n\n  {"id":\n 2}],\n "x": [3]}'
    assert [entry_line(text, "images", index) for index in (0, 1)] == [5, 7]
    assert entry_line(text, "x", 0) == 9

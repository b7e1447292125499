"""Images shared by splits: by COCO ID, path and content."""

import pytest

from eval import overlap
from eval.data import CaptionedImage
from eval.overlap import shared_images
from training.builder import check_overlap


def image(path, image_id, content=None):
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return CaptionedImage(image_id, path, ("a cat",))


def ids(images):
    return [image.id for image in images]


def test_shared_images_by_coco_id_in_2014_and_2017(tmp_path):
    """The ID is in the name of the file; no file is needed."""
    train = [
        image(tmp_path / "val2014" / "COCO_val2014_000000000042.jpg", 42),
        image(tmp_path / "train2017" / "000000000009.jpg", 9),
    ]
    val = [image(tmp_path / "val2017" / f"{i:012d}.jpg", i) for i in (9, 25, 42)]
    assert ids(shared_images(train, val)) == [9, 42]


def test_shared_images_equal_ids_of_own_images_are_not_enough(tmp_path):
    train = [image(tmp_path / "train" / "a.jpg", 1, b"a"), image(tmp_path / "train" / "2.jpg", 2, b"b")]
    val = [image(tmp_path / "val" / "x.jpg", 1, b"x"), image(tmp_path / "val" / "2.jpg", 2, b"y")]
    assert shared_images(train, val) == []


def test_shared_images_by_content_under_another_name(tmp_path, monkeypatch):
    train = [image(tmp_path / "train" / "a.jpg", 1, b"same"), image(tmp_path / "train" / "b.jpg", 2, b"size")]
    val = [image(tmp_path / "val" / "x.jpg", 7, b"same"), image(tmp_path / "val" / "y.jpg", 8, b"four")]
    assert ids(shared_images(train, val)) == [7]
    monkeypatch.setattr(overlap, "MAX_COMPARED", 1)
    assert shared_images(train, val) == []


def test_shared_images_missing_files_are_not_the_same(tmp_path):
    assert shared_images([image(tmp_path / "a.jpg", 1)], [image(tmp_path / "b.jpg", 2)]) == []


def test_check_overlap_refuses_with_the_number(tmp_path):
    train = {"karpathy_train": [image(tmp_path / "val2017" / f"{i:012d}.jpg", i) for i in range(1, 5)]}
    val = {"val2017": [image(tmp_path / "val2017" / f"{i:012d}.jpg", i) for i in range(3, 6)]}
    with pytest.raises(
        ValueError, match=r"^2 of the 3 images of the validation split 'val2017' are in the training split 'karp"
    ):
        check_overlap(train, val)


def test_check_overlap_split_used_for_both_is_intended(tmp_path):
    split = {"photos": [image(tmp_path / "a.jpg", 1)]}
    check_overlap(split, split)

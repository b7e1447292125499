"""Splits in the COCO layout."""

import json

import pytest

from eval.coco import CaptionedImage, load_training_split, read_split
from tests.helpers.paths import ROOT


def test_read_split_samples_have_five_captions():
    images = read_split(ROOT / "samples", "photos")
    assert [image.path.stem for image in images][:2] == ["astronaut", "cat"]
    assert all(len(image.captions) == 5 for image in images)


def test_read_split_flickr8k_is_complete(flickr8k):
    for split, count in (("train", 6000), ("val", 1000)):
        images = read_split(flickr8k, split)
        assert len(images) == count
        assert {len(image.captions) for image in images} == {5}


def write_split(directory, images, annotations):
    (directory / "annotations").mkdir()
    (directory / "s").mkdir()
    content = {"images": images, "annotations": annotations}
    (directory / "annotations" / "captions_s.json").write_text(json.dumps(content))


def test_read_split_image_without_caption_is_skipped(tmp_path):
    write_split(
        tmp_path,
        [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        [{"image_id": 2, "caption": "x"}, {"image_id": 2, "caption": "y"}],
    )
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "s" / name).touch()
    assert read_split(tmp_path, "s") == [CaptionedImage(2, tmp_path / "s" / "b.jpg", ("x", "y"))]


def test_read_split_name_with_directory_is_relative_to_root(tmp_path):
    names = ["train2014/a.jpg", "val2014/a.jpg", "a.jpg"]
    write_split(
        tmp_path,
        [{"id": index, "file_name": name} for index, name in enumerate(names)],
        [{"image_id": index, "caption": "x"} for index in range(3)],
    )
    expected = [tmp_path / "train2014" / "a.jpg", tmp_path / "val2014" / "a.jpg", tmp_path / "s" / "a.jpg"]
    for path in expected:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [image.path for image in read_split(tmp_path, "s")] == expected


@pytest.mark.parametrize(
    "name",
    ["../a.jpg", "s/../../a.jpg", "/a.jpg", "//a.jpg", "s//a.jpg", "s/./a.jpg", "s\\..\\a.jpg", "s/..", "s/", ""],
)
def test_read_split_name_outside_root_is_refused(tmp_path, name):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "root").mkdir()
    write_split(tmp_path / "root", [{"id": 1, "file_name": name}], [{"image_id": 1, "caption": "x"}])
    (tmp_path / "root" / "s" / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"captions_s\.json names '.*', which is not a plain file name"):
        read_split(tmp_path / "root", "s")


def test_read_split_of_another_directory_is_found(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write_split(tmp_path / "two", [{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "caption": "x"}])
    (tmp_path / "two" / "s" / "a.jpg").touch()
    [image] = read_split(tmp_path / "one", "../two/s")
    assert image.path.samefile(tmp_path / "two" / "s" / "a.jpg")
    assert read_split(tmp_path, "two/s") == read_split(tmp_path / "two", "s")
    with pytest.raises(FileNotFoundError, match=r"no split 't' in .*two: .*captions_t\.json.* Existing splits: s\."):
        read_split(tmp_path / "one", "../two/t")


@pytest.mark.parametrize(
    ("images", "annotations", "error", "message"),
    [
        ([{"id": 1, "file_name": "a.jpg"}], [], FileNotFoundError, "a.jpg, which is missing"),
        ([{"id": 1, "file_name": "../a.jpg"}], [], ValueError, "is not a plain file name"),
        ([{"id": 1}], [], ValueError, "is not in the COCO layout: KeyError.'file_name'"),
        ([{"id": 1, "file_name": 7}], [], ValueError, "is not in the COCO layout: TypeError..file_name is"),
        ([], [{"image_id": 1, "caption": None}], ValueError, "caption is not a string"),
        ([], [], ValueError, "no captioned image"),
    ],
)
def test_read_split_damaged_annotations_are_refused(tmp_path, images, annotations, error, message):
    write_split(tmp_path, images, annotations)
    with pytest.raises(error, match=message):
        read_split(tmp_path, "s")


def test_read_split_missing_split_lists_available_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no split 'val'.* Existing splits: none"):
        read_split(tmp_path, "val")


def test_read_split_without_images_needs_captions_only(tmp_path):
    write_split(tmp_path, [{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "caption": "x"}])
    [image] = read_split(tmp_path, "s", require_images=False)
    assert image.captions == ("x",)
    assert load_training_split(tmp_path, "s") == [image]
    assert load_training_split(tmp_path, None) == ()


def test_read_split_placeholder_of_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    (tmp_path / "machine").write_text("photos")  # as git checks a link out where there are none
    (tmp_path / "annotations").mkdir()
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}
    (tmp_path / "annotations" / "captions_machine.json").write_text(json.dumps(content))
    assert read_split(tmp_path, "machine")[0].path == tmp_path / "photos" / "a.jpg"
    (tmp_path / "machine").write_text("../photos")
    with pytest.raises(FileNotFoundError, match="which is missing"):
        read_split(tmp_path, "machine")

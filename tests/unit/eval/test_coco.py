"""Splits in the COCO layout."""

import json

import pytest

from eval.coco import load_training_split, read_split
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


@pytest.mark.parametrize(
    ("annotations", "captions", "description"),
    [
        (["1 x", "2 y", "2 z"], [("x",), ("y", "z")], "2 images, 3 captions."),
        (["2 x", "2 y"], [("x", "y")], "1 images, 2 captions. Left out: 1 images without a caption (1.jpg)."),
        (
            ["1 x", "1 ", "1  ...", "1 !?", "2 \u2028"],
            [("x",)],
            "1 images, 1 captions. Left out: 1 images without a caption (2.jpg), "
            "4 captions without a word (of 1.jpg, of 1.jpg, of 1.jpg, …).",
        ),
        (
            ["2 x", "7 y", "7 z", "1 w"],
            [("w",), ("x",)],
            "2 images, 2 captions. Left out: 2 captions of images that are not listed (of image 7, of image 7).",
        ),
        (["1 हि", "2 𝟟"], [("हि",), ("𝟟",)], "2 images, 2 captions."),
    ],
)
def test_read_split_counts_what_is_left_out(tmp_path, annotations, captions, description):
    pairs = [line.split(" ", 1) for line in annotations]
    write_split(
        tmp_path,
        [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
        [{"image_id": int(image), "caption": caption} for image, caption in pairs],
    )
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "s" / name).touch()
    images = read_split(tmp_path, "s")
    assert [image.captions for image in images] == captions
    assert images.describe() == description


def test_read_split_missing_files_are_counted_and_some_named(tmp_path):
    """Of images without a caption the files are not needed."""
    write_split(
        tmp_path,
        [{"id": index, "file_name": f"{index}.jpg"} for index in range(7)],
        [{"image_id": index, "caption": "x"} for index in range(6)],
    )
    (tmp_path / "s" / "0.jpg").touch()
    (tmp_path / "s" / "2.jpg").mkdir()
    with pytest.raises(FileNotFoundError) as raised:
        read_split(tmp_path, "s")
    paths = ", ".join(str(tmp_path / "s" / f"{index}.jpg") for index in (1, 2, 3))
    assert f"names 6 captioned images, of which 5 are missing: {paths}, …. Copy them" in str(raised.value)
    (tmp_path / "s" / "2.jpg").rmdir()
    for index in range(1, 6):
        (tmp_path / "s" / f"{index}.jpg").touch()
    assert len(read_split(tmp_path, "s")) == 6


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_read_split_byte_order_marks_are_read(tmp_path, encoding):
    write_split(tmp_path, [], [])
    content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": "1", "caption": "a café"}]}
    path = tmp_path / "annotations" / "captions_s.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    [image] = read_split(tmp_path, "s", require_images=False)
    assert (image.id, image.captions) == (1, ("a café",))


def test_read_split_other_encoding_is_refused_without_the_content(tmp_path):
    write_split(tmp_path, [], [])
    (tmp_path / "annotations" / "captions_s.json").write_bytes(b'{"images": [], "annotations": "caf\xe9 secret"}')
    with pytest.raises(ValueError, match=r"byte 34 is not UTF-8: convert the file.*latin1") as raised:
        read_split(tmp_path, "s")
    assert "secret" not in str(raised.value)


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
        ([{"id": 1, "file_name": "a.jpg"}], [], ValueError, r"no captioned image\..* 1 images without a caption"),
        ([{"id": 1, "file_name": "../a.jpg"}], [], ValueError, "is not a plain file name"),
        ([{"id": 1, "file_name": "a\0.jpg"}], [], ValueError, "is not a plain file name"),
        ([{"id": 1}], [], ValueError, r"is not in the COCO layout: 'file_name' is missing\."),
        ([{"id": 1, "file_name": 7}], [], ValueError, "is not in the COCO layout: file_name is not a string"),
        ([{"id": 1, "file_name": "a"}, {"id": "1", "file_name": "b"}], [], ValueError, "the image id 1 occurs twice"),
        ([{"id": "a", "file_name": "a"}], [], ValueError, "the image id 'a' is not an integer"),
        ([], [{"image_id": 1, "caption": None}], ValueError, "the caption None is not a string"),
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
    with pytest.raises(FileNotFoundError, match="of which 1 are missing"):
        read_split(tmp_path, "machine")

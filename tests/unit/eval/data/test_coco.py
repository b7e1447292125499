"""Splits in the COCO layout."""

import json

import pytest

from eval.data import CaptionedImage, load_training_split, read_split
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


def write_split(directory, images, annotations, **options):
    (directory / "annotations").mkdir()
    (directory / "s").mkdir()
    content = {"images": images, "annotations": annotations}
    (directory / "annotations" / "captions_s.json").write_text(json.dumps(content, **options))


def test_read_split_name_with_directory_is_relative_to_root(tmp_path):
    names = ["train2014/a.jpg", "val2014/a.jpg", "a.jpg"]
    write_split(
        tmp_path,
        [{"id": index, "file_name": name} for index, name in enumerate(names)],
        [{"image_id": index, "caption": "a dog"} for index in range(3)],
    )
    expected = [tmp_path / "train2014" / "a.jpg", tmp_path / "val2014" / "a.jpg", tmp_path / "s" / "a.jpg"]
    for path in expected:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [image.path for image in read_split(tmp_path, "s")] == expected


@pytest.mark.parametrize(
    "name",
    [
        *("../a.jpg", "s/../../a.jpg", "/a.jpg", "//a.jpg", "s//a.jpg", "s/./a.jpg", "s\\..\\a.jpg", "s/..", "s/", ""),
        "a\0.jpg",
    ],
)
def test_read_split_name_outside_root_is_refused(tmp_path, name):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "root").mkdir()
    write_split(tmp_path / "root", [{"id": 1, "file_name": name}], [{"image_id": 1, "caption": "a dog"}])
    (tmp_path / "root" / "s" / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"captions_s\.json, line 1, images\[0\]: '.*' is not a plain file name"):
        read_split(tmp_path / "root", "s")


@pytest.mark.parametrize("directory", ["s", "images/s", "images"])
def test_read_split_images_are_found_where_people_put_them(tmp_path, directory):
    write_split(tmp_path, [{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "caption": "a dog"}])
    (tmp_path / "s").rmdir()
    (tmp_path / directory).mkdir(parents=True)
    (tmp_path / directory / "a.jpg").touch()
    assert read_split(tmp_path, "s")[0].path == tmp_path / directory / "a.jpg"


def test_read_split_of_another_directory_is_found(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write_split(tmp_path / "two", [{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "caption": "a dog"}])
    (tmp_path / "two" / "s" / "a.jpg").touch()
    [image] = read_split(tmp_path / "one", "../two/s")
    assert image.path.samefile(tmp_path / "two" / "s" / "a.jpg")
    assert read_split(tmp_path, "two/s") == read_split(tmp_path / "two", "s")
    with pytest.raises(FileNotFoundError, match=r"no split 't' in .*two\. Existing splits: .*annotations has s\."):
        read_split(tmp_path / "one", "../two/t")


IMAGE, CAPTION = {"id": 1, "file_name": "a.jpg"}, {"image_id": 1, "caption": "a dog"}


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([IMAGE, {"id": 1, "file_name": "b.jpg"}], [], r"line 7, images\[1\]: the image id 1 occurs twice"),
        ([IMAGE, {"id": 2, "file_name": "a.jpg"}], [], r"line 7, .*'a.jpg' occurs twice, first in line 3, images\[0\]"),
        (
            [{"id": "1", "file_name": "a.jpg"}],
            [],
            r"line 3, images\[0\]: the image id '1' is text: write it",
        ),
        ([{"id": True, "file_name": "a.jpg"}], [], "the image id True is not an integer"),
        ([{"id": 1}], [], r"images\[0\]: the entry has no 'file_name'"),
        ([{"id": 1, "file_name": 7}], [], "the file name 7 is not text"),
        ([7], [], "the entry has no 'id'"),
        ([IMAGE], [CAPTION, {"image_id": "1", "caption": "a"}], r"line 13, annotations\[1\]: the image id '1' is text"),
        ([IMAGE], [{"image_id": 1, "caption": None}], r"line 9, annotations\[0\]: the caption None is not text"),
        ([IMAGE], [CAPTION, {"image_id": 1, "caption": " \n"}], r"line 13, annotations\[1\]: the caption is empty"),
        (
            [IMAGE],
            [{"image_id": 1, "caption": "a\u2028b"}],
            r"line 9, .*the line separator U\+2028 in it",
        ),
        ([IMAGE], [{**CAPTION, "id": 3}, {**CAPTION, "id": 3}], r"annotations\[1\]: the annotation id 3 occurs twice"),
        ([IMAGE], [], "has no captioned image; 1 images without a caption"),
        ([], [], "has no captioned image"),
    ],
)
def test_read_split_broken_entry_is_refused_with_its_line(tmp_path, images, annotations, message):
    """With an indentation of one, the first image starts in line 3."""
    write_split(tmp_path, images, annotations, indent=1)
    with pytest.raises(ValueError, match=r"captions_s\.json.*" + message):
        read_split(tmp_path, "s")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [],\n "annotations": [}', "line 2: this is not JSON"),
        (
            b'{"images": [],\n "annotations": "na\xefve secret"}',
            "line 2: the byte 0xEF is not UTF-8. Save the file",
        ),
        (b'{"images": []}', "it has no list 'annotations'"),
        (b"[]", "it has no list 'images'"),
    ],
)
def test_read_split_broken_file_is_refused_without_its_content(tmp_path, content, message):
    write_split(tmp_path, [], [])
    (tmp_path / "annotations" / "captions_s.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_split(tmp_path, "s")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_read_split_byte_order_marks_are_read(tmp_path, encoding):
    write_split(tmp_path, [], [])
    content = {"images": [IMAGE], "annotations": [{"image_id": 1, "caption": "a café"}]}
    path = tmp_path / "annotations" / "captions_s.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    [image] = read_split(tmp_path, "s", require_images=False)
    assert image.captions == ("a café",)


@pytest.mark.parametrize(
    ("annotations", "captions", "description"),
    [
        (
            ["1 a x", "2 a y", "2 a z"],
            [("a x",), ("a y", "a z")],
            "2 images with 3 captions (1 to 2 each), COCO layout",
        ),
        (
            ["2 a x", "2 a y"],
            [("a x", "a y")],
            "COCO layout; 1 images without a caption, which are left out.",
        ),
        (["1 dog"], [("dog",)], "; 1 captions of one word; 1 images without a caption, which are left out."),
        (["1 ...", "1 a x"], [("a x",)], "1 captions without a letter or a digit, which are left out"),
        (["1 a x", "7 a y"], [("a x",)], "1 captions of images that are not listed, which are left out"),
        (["1 a x", "1 a x"], [("a x", "a x")], "1 captions that repeat another one of their image"),
        (["1 a x\nb", "1 a y\n"], [("a x\nb", "a y\n")], "1 captions with a line break, which is read as a space"),
        (["1 a \ud800"], [("a \ufffd",)], "1 images with 1 captions"),
        (["1 हि", "2 𝟟"], [("हि",), ("𝟟",)], "2 images with 2 captions (1 each), COCO layout; 2 captions of one word."),
    ],
)
def test_read_split_says_what_it_found(tmp_path, capsys, annotations, captions, description):
    pairs = [line.split(" ", 1) for line in annotations]
    write_split(
        tmp_path,
        [{"id": 1, "file_name": "1.jpg"}, {"id": 2.0, "file_name": "2.jpg"}],
        [{"image_id": int(image), "caption": caption} for image, caption in pairs],
    )
    for _ in range(2):
        images = read_split(tmp_path, "s", require_images=False)
    assert [image.captions for image in images] == captions
    said = capsys.readouterr().err
    assert description in said
    assert said.count("\n") == 1  # once in a process


def test_read_split_missing_files_are_counted_and_some_named(tmp_path):
    """Of images without a caption the files are not needed."""
    write_split(
        tmp_path,
        [{"id": index, "file_name": f"{index}.jpg"} for index in range(7)],
        [{"image_id": index, "caption": "a dog"} for index in range(6)],
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


def test_load_training_split_needs_captions_only(tmp_path):
    write_split(tmp_path, [IMAGE], [CAPTION])
    expected = CaptionedImage(1, tmp_path / "s" / "a.jpg", ("a dog",))
    assert load_training_split(tmp_path, "s") == [expected]
    assert load_training_split(tmp_path, None) == ()


def test_read_split_placeholder_of_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    (tmp_path / "machine").write_text("photos")  # as git checks a link out where there are none
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_machine.json").write_text(
        json.dumps({"images": [IMAGE], "annotations": [CAPTION]})
    )
    assert read_split(tmp_path, "machine")[0].path == tmp_path / "photos" / "a.jpg"
    (tmp_path / "machine").write_text("../photos")
    with pytest.raises(FileNotFoundError, match="of which 1 are missing"):
        read_split(tmp_path, "machine")

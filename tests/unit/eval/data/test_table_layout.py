"""Splits of tables, and where their images are."""

import pytest

from eval.data import read_split


def names(directory, split, **options):
    return [image.path.name for image in read_split(directory, split, **options)]


def write_images(directory, *paths):
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).touch()


def test_read_split_kaggle_flickr8k_is_split_by_the_lists_beside_it(tmp_path, capsys):
    write_images(tmp_path, "Images/a.jpg", "Images/b.jpg", "Images/c.jpg", "Images/d.jpg")
    rows = "".join(f"{name}.jpg,A dog {name}\n" for name in "abcd")
    (tmp_path / "captions.txt").write_text(f"image,caption\n{rows}")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("c.jpg\na.jpg\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("b.jpg\nx.jpg\n")
    assert names(tmp_path, "train") == ["a.jpg", "c.jpg"]  # in the order of the table
    assert names(tmp_path, "val") == names(tmp_path, "dev") == ["b.jpg"]
    assert "1 images of the list without a caption" in capsys.readouterr().err
    assert [image.id for image in read_split(tmp_path, "val")] == [2]  # the number in the table
    assert names(tmp_path, "all") == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    with pytest.raises(FileNotFoundError, match=r"no split 'val2017' .*captions\.txt has train, val, all\."):
        read_split(tmp_path, "val2017")


def test_read_split_by_column(tmp_path):
    (tmp_path / "a.csv").write_text(
        "file_name,split,caption\na.jpg,validation,A dog\nb.jpg,train,A cat\nc.jpg,odd,A cow\n"
    )
    assert names(tmp_path, "val", require_images=False) == ["a.jpg"]
    assert names(tmp_path, "odd", require_images=False) == ["c.jpg"]


def test_read_split_by_directory_in_the_file_name(tmp_path):
    write_images(tmp_path, "train/a.jpg", "validation/a.jpg")
    lines = '{"file_name": "train/a.jpg", "text": "A dog"}\n{"file_name": "validation/a.jpg", "text": "A cat"}\n'
    (tmp_path / "metadata.jsonl").write_text(lines)
    [image] = read_split(tmp_path, "val")
    assert (image.path, image.captions) == (tmp_path / "validation" / "a.jpg", ("A cat",))


def test_read_split_by_digest_of_the_file_name_is_stable(tmp_path):
    """SHA-256 of `4.jpg` starts with acf116f0 = 2901481200, of `1.jpg` with 4c468b3b = 1279691579: digits 0 and 9."""
    rows = [f"{number}.jpg,A dog\n" for number in range(1000)]
    for count in (500, 1000):
        (tmp_path / "captions.csv").write_text("image,caption\n" + "".join(rows[:count]))
        splits = {split: set(names(tmp_path, split, require_images=False)) for split in ("train", "val", "test")}
        assert sum(map(len, splits.values())) == count
        assert len(set.union(*splits.values())) == count
        assert 0.07 < len(splits["val"]) / count < 0.13
        assert 0.07 < len(splits["test"]) / count < 0.13
        if count == 500:
            first = splits
    assert all(first[split] < splits[split] for split in splits)
    assert "4.jpg" in splits["val"]
    assert "1.jpg" in splits["train"]


def test_read_split_hugging_face_directory(tmp_path):
    write_images(tmp_path, "train/a.jpg", "test/a.jpg")
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "A dog"}\n')
    (tmp_path / "test" / "metadata.csv").write_text("file_name,text\na.jpg,A cat\n")
    assert read_split(tmp_path, "train")[0].path == tmp_path / "train" / "a.jpg"
    assert read_split(tmp_path, "test")[0].captions == ("A cat",)


def test_read_split_doubled_directory_is_found(tmp_path):
    write_images(tmp_path, "flickr30k_images/flickr30k_images/a.jpg")
    (tmp_path / "results.csv").write_text("image_name| comment_number| comment\na.jpg| 0| A dog\n")
    path = tmp_path / "flickr30k_images" / "flickr30k_images" / "a.jpg"
    assert read_split(tmp_path, "all")[0].path == path


def test_read_split_image_in_two_directories_is_refused(tmp_path):
    write_images(tmp_path, "Images/a.jpg", "thumbnails/a.jpg", ".cache/a.jpg")
    (tmp_path / "captions.txt").write_text("image,caption\na.jpg,A dog\n")
    with pytest.raises(ValueError, match=r"The image a\.jpg is both in .*(Images|thumbnails) and "):
        read_split(tmp_path, "all")


def test_read_split_several_tables_have_to_be_named(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"file_name,caption\n{name}.jpg,A dog\n")
    with pytest.raises(ValueError, match=r"several tables of captions \(a\.csv, b\.csv\): name one, DATA=.*a\.csv"):
        read_split(tmp_path, "all")
    assert names(tmp_path / "b.csv", "all", require_images=False) == ["b.csv.jpg"]

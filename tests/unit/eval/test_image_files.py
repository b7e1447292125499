"""Finding images."""

from pathlib import Path

import pytest

from eval.image_files import find_images


@pytest.fixture
def photos(tmp_path) -> Path:
    directory = tmp_path / "photos"
    (directory / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.PNG", "deep/c.webp", "notes.txt"):
        (directory / name).touch()
    return directory


def test_find_images_lists_each_file_once_in_order(photos):
    found = find_images([str(photos / "a.jpg"), str(photos), f"{photos}/**/*.webp"])
    assert [Path(path).name for path in found] == ["a.jpg", "b.PNG", "c.webp"]


def test_find_images_takes_named_files_of_any_suffix(photos):
    assert find_images([str(photos / "notes.txt")]) == [str(photos / "notes.txt")]


def test_find_images_without_match_raises(photos):
    with pytest.raises(FileNotFoundError, match=r"No image found at .*none\*"):
        find_images([str(photos), f"{photos}/none*"])

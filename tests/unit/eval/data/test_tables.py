"""Tables of captions, read as they are."""

import json

import pytest

from eval.data import read_split
from eval.data.tables import is_table

NAME = "1000268201_693b08cb0e.jpg"


def read(directory, name, content, split="all"):
    """Write a table, and return names, captions and ids of its images."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(image.path.name, image.captions, image.id) for image in read_split(directory, split, require_images=False)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("captions.txt", f"image,caption\n{NAME},A child .\n{NAME},A girl .\n", ["A child .", "A girl ."]),
        ("captions.txt", f'image,caption\r\n{NAME},"A dog , running"\r\n', ["A dog , running"]),
        ("captions.txt", f"image,caption\n{NAME},A dog , running , fast\n", ["A dog , running , fast"]),
        ("captions.txt", f'image,caption\n{NAME},A " racing " man , and a dog\n', ['A " racing " man , and a dog']),
        ("captions.txt", f'image,caption\n{NAME},"A sign says ""stop"""\n', ['A sign says "stop"']),
        ("a.csv", f"\ufefffile_name;caption\n{NAME};A dog, running\n\n", ["A dog, running"]),
        ("a.tsv", f"caption\tfile_name\nA dog, running\t{NAME}\n", ["A dog, running"]),
        ("a.csv", f"file_name,caption_0,caption_1\n{NAME},A dog,A cat\n", ["A dog", "A cat"]),
        ("a.csv", f"file_name,caption\n{NAME},A dog\n".encode("utf-16"), ["A dog"]),
        ("a.jsonl", json.dumps({"file_name": NAME, "caption": "A dog"}) + "\n", ["A dog"]),
        ("metadata.jsonl", json.dumps({"file_name": NAME, "text": "A dog\nruns"}), ["A dog\nruns"]),
        ("a.jsonl", json.dumps({"image": NAME, "captions": ["A dog", "A cat"]}), ["A dog", "A cat"]),
    ],
)  # fmt: skip
def test_read_split_table_as_people_have_it(tmp_path, name, content, expected):
    assert read(tmp_path, name, content) == [(NAME, tuple(expected), 1)]


def test_read_split_flickr30k_row_without_a_separator_is_mended(tmp_path, capsys):
    """Kaggle's `results.csv`, whose row 19,999 lacks the second separator."""
    content = (
        "image_name| comment_number| comment\n"
        "1000092795.jpg| 0| Two young guys look at their hands .\n"
        "2199200615.jpg| 3|  A dog , \"Rex\" , runs .\n"
        "2199200615.jpg| 4   A dog runs across the grass .\n"
    )  # fmt: skip
    assert read(tmp_path, "results.csv", content) == [
        ("1000092795.jpg", ("Two young guys look at their hands .",), 1),
        ("2199200615.jpg", ('A dog , "Rex" , runs .', "A dog runs across the grass ."), 2),
    ]
    assert "2 images with 3 captions (1 to 2 each), table results.csv; 1 rows that lacked a separator." in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "file_name,caption\na.jpg,A dog\nb.jpg\n", "line 3: the row has 1 of 2 fields"),
        ("a.csv", 'file_name,caption\na.jpg,"A dog\nruns"\n', "line 3: the row has 1 of 2 fields. Put each caption in"),
        ("a.csv", "file_name,caption,width\na.jpg,A dog, running,7\n", "line 2: the row has 4 of 3 fields"),
        ("a.csv", "file_name,caption\na.jpg,\n", "line 2: the caption is empty"),
        ("a.csv", "file_name,caption\na.jpg,A dog\u2028runs\n", r"line 2: the caption has the line separator U\+2028"),
        ("a.csv", b"file_name,caption\na.jpg,A na\xefve cat\n", "line 2: the byte 0xEF is not UTF-8"),
        ("a.csv", "file_name,caption\n../a.jpg,A dog\n", "line 2: '../a.jpg' is not a plain file name"),
        ("a.csv", "file_name,image_id,caption\na.jpg,x1,A dog\n", "line 2: the image id 'x1' is text"),
        ("a.csv", "file_name,image_id,caption\na.jpg,1,A dog\nb.jpg,1,A dog\n", "line 3: the image id 1 occurs twice"),
        ("a.csv", "file_name,image_id,caption\na.jpg,1,A dog\na.jpg,2,A cat\n", "line 3: .*a.jpg' has the ids 1 and 2"),
        ("a.csv", "image,split,caption\na.jpg,train,A dog\na.jpg,val,A cat\n", "line 3: .* both in train and in val"),
        ("a.jsonl", '{"file_name": "a.jpg", "caption": "A dog"}\n{"file_name": ', "line 2: this is not JSON"),
        ("a.jsonl", '{"image": "a.jpg", "text": "A dog"}\n{"text": "A dog"}', "line 2: the line needs file_name"),
        ("a.jsonl", '{"file_name": "a.jpg", "caption": 7}', "line 1: the caption 7 is not text"),
        ("a.jsonl", '{"file_name": "a.jpg", "image_id": "1", "caption": "A dog"}', "line 1: the image id '1' is text"),
        ("a.jsonl", '{"file_name": "a.jpg", "caption": []}', "has no captioned image; 1 images without a caption"),
    ],
)  # fmt: skip
def test_read_split_broken_table_is_refused_with_its_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        read(tmp_path, name, content)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "file_name,caption", True),
        ("a.csv", "file_name,width", False),
        ("README.txt", "These are captions.", False),
        ("a.json", "file_name,caption", False),
        ("a.jsonl", '{"file_name": "a.jpg", "text": "A dog"}\n', True),
        ("a.jsonl", "[]", False),
        ("a.jsonl", "", False),
    ],
)
def test_is_table_is_judged_by_the_first_line(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    assert is_table(tmp_path / name) is expected

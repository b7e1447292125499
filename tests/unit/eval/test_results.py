"""COCO results files."""

import pytest

from eval.results import read_results, write_results


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not in the COCO results format"),
        ('[{"image_id": 1}]', "not in the COCO results format"),
        ('[{"image_id": 1, "caption": 7}]', "not in the COCO results format"),
        ('[{"image_id": "a", "caption": "a"}]', "the image id 'a' is not an integer"),
        ('{"image_id": 1, "caption": "a"}', "not in the COCO results format"),
        (
            '[{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}]',
            "several captions for 1 images, e.g. for image 1",
        ),
    ],
)
def test_read_results_invalid_file_is_refused(tmp_path, run_main, content, message):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_results(path)
    done = run_main("eval.score", path, "samples", "photos")
    assert done.returncode == 1
    assert message in done.stderr


def test_read_results_returns_what_was_written(tmp_path):
    captions = {7: "a dog\u2028runs", 3: ""}
    write_results(tmp_path / "captions.json", captions)
    assert read_results(tmp_path / "captions.json") == captions


def test_read_results_repeated_entry_counts_once(tmp_path):
    (tmp_path / "captions.json").write_text('[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "a"}]')
    assert read_results(tmp_path / "captions.json") == {1: "a"}


def test_read_results_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json is missing"):
        read_results(tmp_path / "none.json")

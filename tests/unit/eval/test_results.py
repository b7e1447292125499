"""COCO results files."""

import json

import pytest

from eval.data import read_split
from eval.results import read_results, write_results
from tests.helpers.paths import ROOT


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


@pytest.mark.parametrize(
    ("num_captions", "arguments", "code", "coverage"),
    [(7, [], 0, "7/7"), (4, [], 4, "4/7"), (4, ["--allow-partial"], 0, "4/7"), (0, ["--allow-partial"], 1, None)],
)
def test_score_partial_results_exit_with_4_unless_allowed(tmp_path, run_main, num_captions, arguments, code, coverage):
    images = read_split(ROOT / "samples", "photos")
    path = tmp_path / "captions.json"
    write_results(path, {image.id: "a dog on a table" for image in images[:num_captions]})
    done = run_main(
        "eval.score", path, "samples", "photos", "--no-meteor", "--output", tmp_path / "out.json", *arguments
    )
    assert done.returncode == code, done.stderr
    if coverage is None:
        assert "has a caption of no image of samples/photos" in done.stderr
        return
    assert f" | {coverage} |" in done.stdout
    assert ("|captioned:4|" in done.stdout) == (coverage == "4/7")
    assert ("3 of 7 images have no caption" in done.stderr) == (coverage == "4/7")
    assert json.loads((tmp_path / "out.json").read_text())["captioned"] == int(coverage[0])

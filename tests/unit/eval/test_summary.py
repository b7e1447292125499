"""Summary of scores and measures."""

import pytest

from eval.data import CaptionedImage
from eval.summary import format_summary, round_floats, summarize


@pytest.fixture
def images(tmp_path) -> list[CaptionedImage]:
    texts = [("a dog runs", "the dog runs fast"), ("a cat sits", "a cat is sitting")]
    return [CaptionedImage(number, tmp_path / "missing.jpg", captions) for number, captions in enumerate(texts)]


def test_summarize_quick_has_measures_and_no_intervals(images, monkeypatch):
    monkeypatch.setattr("eval.spice.is_installed", lambda: True)  # SPICE takes too long
    _, content = summarize("x/val", images, {0: "a dog runs", 1: "a dog runs"}, "beam:5", quick=True)
    assert content["intervals"] == {}
    assert "SPICE" not in content["scores"]
    assert content["measures"]["distinct"] == {"model": 0.5, "people": 1.0}
    assert content["warnings"] == ["distinct captions: 50.0 %, people 100.0 % (limit: 85 %)."]
    text = format_summary(content)
    assert "| distinct captions | 50.0 % | 100.0 % |" in text
    assert "Far from people: distinct captions: 50.0 %" in text


def test_summarize_without_lexicon_says_that_recall_is_not_measured(images, monkeypatch):
    for module in ("parts_of_speech", "measures"):
        monkeypatch.setattr(f"eval.{module}.is_installed", lambda: False)
    _, content = summarize("x/val", images, {0: "a dog", 1: "a cat"}, "beam:5", quick=True)
    assert not [name for name in content["measures"] if name.startswith("recall")]
    assert "recall of words was not measured: lemminflect is not installed." in format_summary(content)


def test_summarize_counts_images_of_the_training_split_and_named_objects(images):
    captions = {0: "a dog", 1: "a car"}
    train = [CaptionedImage(7, images[0].path, ("a dog",))]  # both images of the fixture have this path
    objects = {0: {"dog"}, 1: {"cat"}}
    _, content = summarize("x/val", images, captions, "beam:5", train, objects=objects, quick=True)
    assert content["train_overlap"] == 2
    assert "|train-overlap:2|" in content["signature"]
    assert content["measures"]["chair_s"]["model"] == 0.5
    assert "The training split has 2 of these images" in format_summary(content)
    _, content = summarize("x/val", images, captions, "beam:5", quick=True)
    assert "train-overlap" not in content["signature"]


def test_round_floats_reaches_nested_values():
    assert round_floats({"a": [0.12345, None, {"b": 1.99999}], "n": 7}, 3) == {"a": [0.123, None, {"b": 2.0}], "n": 7}

"""Several captions of each image: their file, and their diversity beside the references."""

import json

import pytest

from eval.caption_sets import measure_sets, write_caption_sets


def test_write_caption_sets_writes_one_entry_per_image(tmp_path):
    write_caption_sets(tmp_path / "sets.json", {7: ["a dog", "é"]})
    assert json.loads((tmp_path / "sets.json").read_text()) == [{"image_id": 7, "captions": ["a dog", "é"]}]


def test_measure_sets_cuts_set_and_references_to_the_same_size():
    # Image 1: three captions, two references: two of each. Image 2 has one caption, image 3 one reference: left out.
    references = {1: ["a dog", "the dog"], 2: ["a", "b"], 3: ["a"]}
    found = measure_sets(references, {1: ["a dog", "A dog.", "z"], 2: ["c"], 3: ["c", "d"]})
    assert found["div_1"] == {"model": pytest.approx(2 / 4), "people": pytest.approx(3 / 4)}
    assert found["div_2"] == {"model": pytest.approx(1 / 4), "people": pytest.approx(2 / 4)}
    assert found.keys() == {"div_1", "div_2", "mbleu_4", "self_cider"}
    assert measure_sets({1: ["a"]}, {1: ["b", "c"]}) == {}

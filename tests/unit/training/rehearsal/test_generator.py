"""Generated data sets in the COCO layout."""

import json
from itertools import islice, pairwise

import numpy as np
import pytest

from eval.data import read_split
from tests.helpers.paths import ROOT
from training.rehearsal.generator import PARTS, generate, generate_captions, make_word, zipf_weights

PHOTOS = sorted((ROOT / "samples" / "photos").glob("*.jpg"))


def test_generate_writes_splits_that_are_read(tmp_path):
    generate(tmp_path, PHOTOS, scale=0.001)
    sizes = {split: len(read_split(tmp_path, split)) for split in ("train2017", "val2017", "val2014")}
    assert sizes == {"train2017": 118, "val2017": 5, "val2014": 41}  # 118,287, 5,000 and 40,504 thousandths
    images = read_split(tmp_path, "val2017")
    assert all(len(image.captions) == 5 for image in images)
    assert [image.id for image in images] == [119, 120, 121, 122, 123]  # an id is in one split
    assert images[0].path.samefile(PHOTOS[0])
    results = json.loads((tmp_path / "results" / "val2017.json").read_text())
    assert [entry["image_id"] for entry in results] == [119, 120, 121, 122, 123]


def test_generate_captions_have_the_word_statistics_of_coco():
    """COCO: 10.5 words a caption, 16 % of them "a"; captions of an image share words."""
    captions = list(generate_captions(np.random.default_rng(0), 2000))
    words = [text.lower().rstrip(".").split() for texts in captions for text in texts]
    flat = [word for text in words for word in text]
    assert 9.5 < len(flat) / len(words) < 11.5
    assert 0.12 < flat.count("a") / len(flat) < 0.25
    assert all(len(texts) == 6 for texts in captions)
    shared = [len(set(a.split()) & set(b.split())) for a, b, *_ in captions]
    unrelated = [len(set(a[0].split()) & set(b[0].split())) for a, b in pairwise(captions)]
    assert np.mean(shared) > np.mean(unrelated) + 1
    assert captions[:3] == list(islice(generate_captions(np.random.default_rng(0), 2000), 3))


def test_make_word_is_unique_and_has_two_syllables():
    """70 syllables: rank 0 is number 70 = 1 × 70 + 0, syllables `be` and `ba`; rank 71 is 2 × 70 + 1, `bi` and `be`."""
    assert [make_word("noun", rank) for rank in (0, 1, 71)] == ["beba", "bebe", "bibe"]
    words = {make_word(part, rank) for part, size in PARTS.items() for rank in range(size)}
    assert len(words) == sum(PARTS.values())


def test_zipf_weights_follow_the_law():
    """(2 + 3)^1.1 / (1 + 3)^1.1 = 1.25^1.1 = 1.2782."""
    weights = zipf_weights(50)
    assert weights.sum() == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx(1.2782, abs=1e-4)

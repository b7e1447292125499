"""The shipped model is the one that its card describes."""

import pytest

from support import ROOT
from training.coco import read_split
from training.config import preset
from training.tokenizer import build_vocabulary
from training.validate import validate_bundle


def test_its_scores_on_flickr8ks_validation_split_are_the_cards(pretrained, flickr8k):
    result, _ = validate_bundle(pretrained, read_split(flickr8k, "val"), "flickr8k/val")
    [card] = pretrained.config.card["scores"]
    assert (result["n"], result["signature"]) == (card["n"], card["signature"])
    # Another machine's arithmetic may turn a near tie, and with it a word here and there.
    assert result["scores"] == pytest.approx(card["scores"], abs=0.005)
    assert result["scores"]["CIDEr"] >= 0.51


def test_its_vocabulary_is_the_training_splits_alone(pretrained, flickr8k):
    captions = (caption for image in read_split(flickr8k, "train") for caption in image.captions)
    assert pretrained.vocabulary.tokens == build_vocabulary(captions, min_count=4).tokens


def test_it_is_small_enough_for_git():
    assert sum(path.stat().st_size for path in (ROOT / "pretrained").iterdir()) < 60e6


def test_its_settings_are_the_presets(pretrained):
    text = preset("soft_attention-lite2-flickr8k").read_text()
    training = pretrained.config.card["training"]
    for name in ("encoder", "encoder_weights", "min_count", "epochs"):
        assert f"{name}: {training[name]}\n" in text
    assert training["decoder"]["name"] == pretrained.config.decoder.name == "soft_attention"
    assert pretrained.config.card["data"] in text

"""The shipped model against its card: scores on both splits, and the vocabulary."""

from dataclasses import replace

import pytest

from eval.data import read_split
from handler import Captioner
from handler.modeling.vocabulary import build_vocabulary, tokenize
from tests.helpers.paths import ROOT
from training.config import load_config, preset_path
from training.validate import validate_bundle

pytestmark = pytest.mark.slow
PRESET = "transformer-lite2-flickr8k-coco-pascal"


@pytest.fixture(scope="module")
def served() -> Captioner:
    """The model as a server runs it, in float32."""
    return Captioner.load(ROOT / "pretrained", backend="auto")


@pytest.mark.parametrize(("place", "split", "least"), [(0, "val", 0.65), (1, "../coco/val2017", 0.8)])
def test_scores_are_those_of_the_card(served, flickr8k, place, split, least):
    card = served.config.card["scores"][place]
    result, _ = validate_bundle(served, read_split(flickr8k, split), card["split"])
    assert result["n"] == card["n"]
    assert result["signature"].startswith(card["signature"])
    # The arithmetic of another machine can turn a near tie, and with it a word here and there.
    assert result["scores"] == pytest.approx(card["scores"], abs=0.005)
    assert result["scores"]["CIDEr"] >= least
    assert result["measures"]["bad_endings"]["model"] <= 0.02


def test_vocabulary_is_of_the_training_splits_alone(pretrained, flickr8k):
    training = pretrained.config.card["training"]
    captions = [
        caption
        for split in training["train_splits"]
        for image in read_split(flickr8k, split)
        for caption in image.captions
    ]
    assert len(captions) == training["train_captions"]
    assert pretrained.vocabulary.tokens == build_vocabulary(captions, training["min_count"]).tokens


def test_vocabulary_has_no_word_of_validation_alone(pretrained, flickr8k):
    training = pretrained.config.card["training"]
    words = [
        {
            word
            for split in splits
            for image in read_split(flickr8k, split)
            for text in image.captions
            for word in tokenize(text)
        }
        for splits in (training["train_splits"], training["val_splits"])
    ]
    assert words[1] - words[0]
    assert not set(pretrained.vocabulary.tokens) & (words[1] - words[0])


def test_bundle_is_small_enough_for_git():
    assert sum(path.stat().st_size for path in (ROOT / "pretrained").iterdir()) < 60e6


def test_settings_are_those_of_the_preset(pretrained):
    config, training = load_config(preset_path(PRESET)), pretrained.config.card["training"]
    for name in ("encoder", "train_splits", "val_splits", "min_count", "unfreeze_from", "encoder_learning_rate"):
        assert training[name] == getattr(config, name), name
    assert training["ema_decay"] == config.ema_decay
    # The norm after encoder layers is younger than the model, which has no such layers.
    assert pretrained.config.decoder == replace(config.decoder, encoder_norm=False)
    assert config.decoder.num_encoder_layers == 0
    assert pretrained.config.card["data"] == config.card["data"]

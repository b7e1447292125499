"""The shipped model is the one that its card describes."""

import pytest

from eval.coco import read_split
from handler import Captioner
from handler.modeling.vocabulary import build_vocabulary
from tests.helpers.paths import ROOT
from training.config import load_config, preset
from training.validate import validate_bundle

PRESET = "transformer-lite2-flickr8k-coco"


@pytest.fixture(scope="module")
def served() -> Captioner:
    """The model as a server runs it, in single precision."""
    return Captioner.load(ROOT / "pretrained", backend="auto")


@pytest.mark.parametrize(("place", "split", "least"), [(0, "val", 0.54), (1, "../coco/val2017", 0.5)])
def test_its_scores_are_the_cards(served, flickr8k, place, split, least):
    card = served.config.card["scores"][place]
    result, _ = validate_bundle(served, read_split(flickr8k, split), card["split"])
    assert (result["n"], result["signature"]) == (card["n"], card["signature"])
    # Another machine's arithmetic may turn a near tie, and with it a word here and there.
    assert result["scores"] == pytest.approx(card["scores"], abs=0.005)
    assert result["scores"]["CIDEr"] >= least
    assert result["bad_endings"] <= 0.02


def test_its_vocabulary_is_the_training_splits_alone(pretrained, flickr8k):
    splits = pretrained.config.card["training"]["train_splits"]
    captions = [caption for split in splits for image in read_split(flickr8k, split) for caption in image.captions]
    assert pretrained.vocabulary.tokens == build_vocabulary(captions, min_count=4).tokens
    assert pretrained.config.card["training"]["train_captions"] == len(captions)


def test_it_is_small_enough_for_git():
    assert sum(path.stat().st_size for path in (ROOT / "pretrained").iterdir()) < 60e6


def test_its_settings_are_the_presets(pretrained):
    config, training = load_config(preset(PRESET)), pretrained.config.card["training"]
    for name in ("encoder", "encoder_weights", "train_splits", "min_count", "epochs", "learning_rate", "ema"):
        assert training[name] == getattr(config, name), name
    assert pretrained.config.decoder == config.decoder
    assert pretrained.config.card["data"] == config.card["data"]

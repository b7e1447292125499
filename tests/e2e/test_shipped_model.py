"""The shipped model against its card: scores on both splits, and the vocabulary."""

from collections import Counter
from itertools import accumulate

import pytest

from eval.data import read_split
from handler import Captioner
from handler.modeling.vocabulary import SPECIAL, build_vocabulary, tokenize
from tests.helpers.paths import ROOT
from training.config import load_config, preset_path
from training.validate import validate_bundle

pytestmark = pytest.mark.slow
PRESET = "transformer-lite2-flickr8k-coco"


@pytest.fixture(scope="module")
def served() -> Captioner:
    """The model as a server runs it, in float32."""
    return Captioner.load(ROOT / "pretrained", backend="auto")


@pytest.mark.parametrize(("place", "split", "least"), [(0, "val", 0.54), (1, "../coco/val2017", 0.5)])
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
    """The model was trained on a part of today's COCO split, so its vocabulary has bounds and is not known exactly.

    A token has at least the occurrences that it has in Flickr8k, and at most those in both splits.
    """
    training, tokens = pretrained.config.card["training"], pretrained.vocabulary.tokens
    assert training["train_splits"] == ["train", "../coco/train2017"]
    flickr, coco = (
        [caption for image in read_split(flickr8k, split) for caption in image.captions]
        for split in training["train_splits"]
    )
    assert len(flickr) < training["train_captions"] <= len(flickr + coco)
    assert set(build_vocabulary(flickr, training["min_count"]).tokens) <= set(tokens)
    assert set(tokens) <= set(build_vocabulary(flickr + coco, training["min_count"]).tokens)
    least, most = (Counter(word for text in texts for word in tokenize(text)) for texts in (flickr, flickr + coco))
    words = tokens[len(SPECIAL) :]
    for word, limit in zip(words, accumulate((most[word] for word in words), min), strict=True):
        assert least[word] <= limit, f"'{word}' comes after a less frequent word."


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
    for name in ("encoder", "encoder_weights", "train_splits", "min_count", "epochs", "learning_rate"):
        assert training[name] == getattr(config, name), name
    assert training["ema"] == config.ema_decay
    assert pretrained.config.decoder == config.decoder
    assert pretrained.config.card["data"] == config.card["data"]

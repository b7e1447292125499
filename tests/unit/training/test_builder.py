"""A model built from settings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eval.data import CaptionedImage
from handler.bundle import load_bundle
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import build_vocabulary
from training.builder import _build_model, _build_vocabulary, _check_selection, describe_data
from training.config import TrainingConfig
from training.pretrained_weights import load_encoder_weights


def test_build_model_keeps_the_pretrained_encoder_and_its_statistics():
    config = replace(TrainingConfig(), encoder="tf_efficientnet_lite2", encoder_weights="package")
    pretrained = Encoder(config.encoder)
    load_encoder_weights(pretrained, "package")
    built = _build_model(config, build_vocabulary(["a dog"], 1), resumed=False).encoder.state_dict()
    assert all(torch.equal(tensor, built[name]) for name, tensor in pretrained.state_dict().items())
    assert built["backbone.bn1.num_batches_tracked"] == 0  # no pass in training mode


def test_build_vocabulary_keeps_that_of_the_bundle_also_when_resumed_without_it(tiny_bundle, tmp_path):
    config = TrainingConfig(keep_vocabulary=True, decoder_weights=str(tiny_bundle), min_count=1)
    train = [CaptionedImage(1, Path("a.jpg"), ("a quokka",))]
    known = load_bundle(tiny_bundle)[2]
    vocabulary = _build_vocabulary(config, train, None)
    assert vocabulary.tokens[: len(known)] == known.tokens
    assert "quokka" in vocabulary.tokens
    vocabulary.save(tmp_path / "vocabulary.txt")
    gone = replace(config, decoder_weights=str(tmp_path / "gone"))
    assert _build_vocabulary(gone, train, tmp_path).tokens == vocabulary.tokens


def split_of(*captions):
    return [CaptionedImage(number, Path(f"{number}.jpg"), texts) for number, texts in enumerate(captions)]


def test_describe_data_has_sizes_and_shares_of_unknown_words():
    """Of the 8 words in val, emu (twice), runs and एक are unknown. The vocabulary: 4 special tokens, "a" and "dog"."""
    train, val = split_of(("a dog", "a dog"), ("a dog",)), split_of(("a dog", "a emu runs"), ("एक a emu",))
    assert describe_data({"train": train}, {"val": val}, build_vocabulary(["a dog"], 1)).splitlines() == [
        "train on train: 2 images, 3 captions, 0.0% of words are <unk>",
        "validate on val: 2 images, 3 captions, 50.0% of words are <unk>",
        "  Many words are unknown: lower min_count, and write spaces between the words.",
        "vocabulary: 6 tokens",
    ]


@pytest.mark.parametrize("captions", [[("a dog",)], [("a dog", "a cat")] * 3])
def test_check_selection_split_with_undefined_cider_is_refused(captions):
    with pytest.raises(ValueError, match=f"split val has {len(captions)} images with the same captions"):
        _check_selection("val", split_of(*captions))
    _check_selection("val", split_of(*captions, ("a car",)))

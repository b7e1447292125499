"""A model built from settings."""

from dataclasses import replace
from pathlib import Path

import torch

from eval.data import CaptionedImage
from handler.bundle import load_bundle
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import build_vocabulary
from training.builder import _build_model, _build_vocabulary
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

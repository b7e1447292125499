"""A model built from settings."""

from dataclasses import replace

import torch

from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import build_vocabulary
from training.builder import _build_model
from training.config import TrainingConfig
from training.pretrained_weights import load_encoder_weights


def test_build_model_keeps_the_pretrained_encoder_and_its_statistics():
    config = replace(TrainingConfig(), encoder="tf_efficientnet_lite2", encoder_weights="package")
    pretrained = Encoder(config.encoder)
    load_encoder_weights(pretrained, "package")
    built = _build_model(config, build_vocabulary(["a dog"], 1), resumed=False).encoder.state_dict()
    assert all(torch.equal(tensor, built[name]) for name, tensor in pretrained.state_dict().items())
    assert built["backbone.bn1.num_batches_tracked"] == 0  # no pass in training mode

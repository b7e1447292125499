"""A model built from settings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eval.data import CaptionedImage
from handler.bundle import load_bundle
from handler.modeling.encoder import Encoder
from handler.modeling.layers import grid_shape
from handler.modeling.vocabulary import build_vocabulary
from training.builder import _build_model, _build_vocabulary, _check_selection, describe_data
from training.config import PRESETS, TrainingConfig, load_config
from training.optim import build_optimizer, set_learning_rate
from training.pretrained_weights import load_encoder_weights


def test_build_model_keeps_the_pretrained_encoder_and_its_statistics():
    config = replace(TrainingConfig(), encoder="tf_efficientnet_lite2", encoder_weights="package")
    pretrained = Encoder(config.encoder)
    load_encoder_weights(pretrained, "package")
    built = _build_model(config, build_vocabulary(["a dog"], 1), resumed=False).encoder.state_dict()
    assert all(torch.equal(tensor, built[name]) for name, tensor in pretrained.state_dict().items())
    assert built["backbone.bn1.num_batches_tracked"] == 0  # no pass in training mode


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(PRESETS.glob("transformer-*-coco.yaml")), ids=lambda path: path.stem)
def test_build_model_preset_with_random_encoder_trains_a_step(path, monkeypatch):
    monkeypatch.setattr("training.builder.load_encoder_weights", lambda *_: None)  # downloads them
    config = load_config(path)
    vocabulary = build_vocabulary(["a dog"], 1)
    model = _build_model(config, vocabulary, resumed=False).train()
    size = config.preprocessing.size
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    before = model.decoder.input_proj[0].weight.clone()
    optimizer = build_optimizer(model, config)
    tokens = torch.tensor([[[1, 4, 5]], [[1, 5, 4]]])
    output = model(images, tokens)
    cells = model.encode(images).shape[1]
    assert output.attention.shape == (2, 1, 3, cells)
    assert cells == grid_shape(cells)[0] ** 2
    torch.nn.functional.cross_entropy(output.logits, torch.tensor([4, 5, 2, 5, 4, 2])).backward()
    set_learning_rate(optimizer, 1e-3)
    optimizer.step()
    assert torch.isfinite(model.decoder.input_proj[0].weight).all()
    assert not torch.equal(model.decoder.input_proj[0].weight, before)


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

"""Bundles of format 1, made from ones of format 2 by the inverse of the translation."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from handler.bundle import _file_digest, load_bundle, update_card, verify_bundle
from handler.bundle_format1 import FIELDS, WEIGHTS, translate_weights
from handler.captioner import Captioner
from handler.errors import BundleError
from handler.modeling import build_decoder
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS
from training.pretrained_weights import load_decoder

# All fields of format 1, with the values that a decoder without them had there.
DEFAULTS = {
    "name": "",
    "embed_size": 512,
    "hidden_size": 512,
    "attention_size": 512,
    "layers": 3,
    "grid_layers": 0,
    "heads": 8,
    "dropout": 0.5,
    "tie_embeddings": False,
}

# Fields that were added after format 1, with the values of its decoders.
ADDED = {"vector_gate": True, "encoder_norm": False}

FORMAT_1_DECODERS = ["nic", "soft_attention", "hard_attention", "top_down", "transformer"]


def rewrite_as_format1(bundle):
    """Rename fields and weights of a bundle to those of format 1; returns its `captioner.json`."""
    weights = {}
    for key, tensor in load_file(bundle / "model.safetensors").items():
        dotted = f".{key}."
        for old, new in reversed(WEIGHTS.items()) if key.startswith("decoder.") else ():
            dotted = dotted.replace(f".{new}.", f".{old}.")
        weights[dotted[1:-1]] = tensor
    save_file(weights, bundle / "model.safetensors")
    path = bundle / "captioner.json"
    content = json.loads(path.read_text())
    old_names = {new: old for old, names in FIELDS.items() for new in names}
    content["format"] = 1
    content["decoder"] = DEFAULTS | {
        old_names[name]: value for name, value in content["decoder"].items() if name not in ADDED
    }
    content["files"]["model.safetensors"] = _file_digest(bundle / "model.safetensors")
    path.write_text(json.dumps(content))
    return content


@pytest.fixture(params=FORMAT_1_DECODERS)
def bundles(request, tmp_path):
    """The same model in both formats."""
    for version in ("1", "2"):
        write_tiny_bundle(tmp_path / version, request.param, **ADDED)
    rewrite_as_format1(tmp_path / "1")
    return tmp_path / "1", tmp_path / "2"


def test_format_1_loads_as_the_same_model(bundles):
    (old, old_weights, _), (new, new_weights, _) = map(load_bundle, bundles)
    assert old.decoder == new.decoder
    assert old_weights.keys() == new_weights.keys()
    assert all(torch.equal(tensor, new_weights[name]) for name, tensor in old_weights.items())


def test_format_1_gives_the_same_captions(bundles):
    old, new = map(Captioner.load, bundles)
    assert old.caption(PHOTOS[:2]) == new.caption(PHOTOS[:2])


def test_format_1_can_be_the_start_of_a_training(bundles):
    config, weights, vocabulary = load_bundle(bundles[1])
    decoder = build_decoder(config.decoder, len(vocabulary), Captioner.load(bundles[1]).encode(pixels()).shape[-1])
    load_decoder(decoder, vocabulary, bundles[0])
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(tensor, weights[f"decoder.{name}"]), name


def pixels():
    return torch.zeros(1, 3, 64, 64, dtype=torch.uint8)


def test_format_1_encoder_layers_are_translated():
    """The tiny Transformer has none, so that their names are checked one by one."""
    translated = translate_weights(
        dict.fromkeys(
            [
                "decoder.grid_layers.1.norm.weight",
                "decoder.grid_layers.1.own.query.bias",
                "decoder.grid_layers.1.own.memory.weight",
                "decoder.grid_layers.1.out.0.weight",
                "decoder.grid_layers.1.feed.3.0.weight",
                "encoder.backbone.feed.weight",
            ]
        )
    )
    assert list(translated) == [
        "decoder.encoder_layers.1.norm.weight",
        "decoder.encoder_layers.1.self_attn.q_proj.bias",
        "decoder.encoder_layers.1.self_attn.kv_proj.weight",
        "decoder.encoder_layers.1.out.0.weight",
        "decoder.encoder_layers.1.ffn.3.0.weight",
        "encoder.backbone.feed.weight",
    ]


def test_format_1_digest_stays_also_when_the_card_is_updated(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "model")
    rewrite_as_format1(bundle)
    before = verify_bundle(bundle).digest
    update_card(bundle, {"limits": "dogs"})
    assert verify_bundle(bundle).digest == before
    assert json.loads((bundle / "captioner.json").read_text())["format"] == 1


def test_format_1_with_an_unknown_field_raises(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "model")
    content = rewrite_as_format1(bundle)
    content["decoder"]["wings"] = 2
    (bundle / "captioner.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="has no field 'wings'"):
        verify_bundle(bundle)
    content["decoder"]["name"] = "gpt"
    (bundle / "captioner.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="Unknown decoder 'gpt'"):
        verify_bundle(bundle)

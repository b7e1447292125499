"""The bundle: what is saved is loaded, and what does not fit stops the load with both sides named."""

import hashlib
import json

import pytest
import torch

from handler.bundle import load_bundle, update_card, verify_bundle
from handler.captioner import Captioner
from handler.errors import BundleError


def test_saved_and_loaded(tiny_bundle):
    config, weights, vocabulary = load_bundle(tiny_bundle)
    assert config.encoder == "test_efficientnet"
    assert config.decoding.beam_size == 3
    assert config.preprocessing.mean == (127.0, 127.0, 127.0)
    assert vocabulary.tokens[4] == "a"
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in weights.values())


def test_matrices_are_stored_in_half_precision_and_vectors_in_single(tiny_bundle):
    from safetensors.torch import load_file

    for name, tensor in load_file(tiny_bundle / "model.safetensors").items():
        if tensor.is_floating_point():
            assert tensor.dtype == (torch.float16 if tensor.ndim > 1 else torch.float32), name


@pytest.mark.parametrize("name", ["captioner.json", "model.safetensors", "vocabulary.txt"])
def test_a_missing_file_is_named(tiny_bundle, name):
    (tiny_bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        verify_bundle(tiny_bundle)


def test_a_changed_byte_is_found_and_both_digests_are_named(tiny_bundle):
    weights = tiny_bundle / "model.safetensors"
    data = bytearray(weights.read_bytes())
    wanted = json.loads((tiny_bundle / "captioner.json").read_text())["files"]["model.safetensors"]["sha256"]
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BundleError, match=rf"model.safetensors.*sha256 [0-9a-f]{{64}} there, {wanted} in"):
        verify_bundle(tiny_bundle)


def test_a_truncated_file_is_found_by_its_size(tiny_bundle):
    vocabulary = tiny_bundle / "vocabulary.txt"
    size = vocabulary.stat().st_size
    vocabulary.write_bytes(vocabulary.read_bytes()[:-3])
    with pytest.raises(BundleError, match=rf"bytes {size - 3} there, {size} in"):
        verify_bundle(tiny_bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "has format 2, this version reads format 1"),
        (lambda c: c.pop("decoder"), "can't be understood: 'decoder'"),
        (lambda c: c["decoder"].update(wings=8), "can't be understood.*wings"),
        (lambda c: c.pop("files"), "can't be understood"),
    ],
)
def test_a_configuration_that_cant_be_understood(tiny_bundle, change, message):
    path = tiny_bundle / "captioner.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=message):
        verify_bundle(tiny_bundle)


def test_broken_json(tiny_bundle):
    (tiny_bundle / "captioner.json").write_text('{"format": 1,')
    with pytest.raises(BundleError, match="can't be understood"):
        verify_bundle(tiny_bundle)


def test_weights_of_another_size_do_not_load(tiny_bundle):
    path = tiny_bundle / "captioner.json"
    content = json.loads(path.read_text())
    content["decoder"]["hidden_size"] = 32
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="do not fit"):
        Captioner.load(tiny_bundle)


def test_the_card_changes_no_digest_and_the_decoding_does(tiny_bundle):
    before = verify_bundle(tiny_bundle).digest
    update_card(tiny_bundle, {"limits": "it has seen dogs alone"})
    config = verify_bundle(tiny_bundle)
    assert config.card == {"limits": "it has seen dogs alone"}
    assert config.digest == before
    assert before.startswith("sha256:")
    path = tiny_bundle / "captioner.json"
    path.write_text(path.read_text().replace('"beam_size": 3', '"beam_size": 4'))
    assert verify_bundle(tiny_bundle).digest != before


def test_settings_that_a_later_version_adds_change_no_digest(tiny_bundle):
    """A bundle that was written before `heads` was a setting."""
    path = tiny_bundle / "captioner.json"
    content = json.loads(path.read_text())
    heads = content["decoder"].pop("heads")
    path.write_text(json.dumps(content))
    config = verify_bundle(tiny_bundle)
    assert config.decoder.heads == heads
    decisive = {name: value for name, value in content.items() if name != "card"}
    expected = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    assert config.digest == f"sha256:{expected}"

"""Model bundles: what is saved can be loaded, and every mismatch stops the load with a clear message."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from handler.bundle import load_bundle, save_bundle, update_card, verify_bundle
from handler.captioner import Captioner
from handler.errors import BundleError
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS


def change_config(bundle, change):
    """Apply `change` to the content of `captioner.json`; returns the content."""
    path = bundle / "captioner.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return content


def digest_of(content):
    """The digest that a `captioner.json` of this content has."""
    hashed_fields = {name: value for name, value in content.items() if name != "card"}
    return f"sha256:{hashlib.sha256(json.dumps(hashed_fields, sort_keys=True).encode()).hexdigest()}"


def test_load_bundle_returns_what_was_saved(tiny_bundle):
    config, weights, vocabulary = load_bundle(tiny_bundle)
    assert config.encoder == "test_efficientnet"
    assert config.decoding.beam_size == 3
    assert config.preprocessing.mean == (127.0, 127.0, 127.0)
    assert config.decoder.name == "soft_attention"
    assert vocabulary.tokens[4] == "a"
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in weights.values())


def test_save_bundle_stores_matrices_as_float16_and_vectors_as_float32(tiny_bundle):
    for name, tensor in load_file(tiny_bundle / "model.safetensors").items():
        if tensor.is_floating_point():
            assert tensor.dtype == (torch.float16 if tensor.ndim > 1 else torch.float32), name


@pytest.mark.parametrize("name", ["captioner.json", "model.safetensors", "vocabulary.txt"])
def test_verify_bundle_without_a_file_names_it(tiny_bundle, name):
    (tiny_bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        verify_bundle(tiny_bundle)


def test_verify_bundle_with_a_changed_byte_names_both_digests(tiny_bundle):
    weights = tiny_bundle / "model.safetensors"
    data = bytearray(weights.read_bytes())
    expected = json.loads((tiny_bundle / "captioner.json").read_text())["files"]["model.safetensors"]["sha256"]
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BundleError, match=rf"model.safetensors.*: sha256 [0-9a-f]{{64}}, expected {expected}\."):
        verify_bundle(tiny_bundle)


def test_verify_bundle_with_a_truncated_file_names_both_sizes(tiny_bundle):
    vocabulary = tiny_bundle / "vocabulary.txt"
    size = vocabulary.stat().st_size
    vocabulary.write_bytes(vocabulary.read_bytes()[:-3])
    with pytest.raises(BundleError, match=rf"bytes {size - 3}, expected {size}\."):
        verify_bundle(tiny_bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=3), "has format 3, but this version reads formats 1 to 2"),
        (lambda c: c.pop("format"), "captioner.json has no field 'format'"),
        (lambda c: c.pop("decoder"), "captioner.json has no field 'decoder'"),
        (lambda c: c["decoder"].update(wings=8), "cannot be read: .* has no field 'wings'"),
        (lambda c: c["decoder"].update(name="gpt"), "cannot be read: Unknown decoder 'gpt'"),
        (lambda c: c["decoder"].update(hidden_dim="wide"), "cannot be read: hidden_dim must be an integer"),
        (lambda c: c.pop("files"), "captioner.json has no field 'model.safetensors'"),
        (lambda c: c["files"].update({"vocabulary.txt": "?"}), "cannot be read"),
    ],
)
def test_verify_bundle_with_an_invalid_config_raises(tiny_bundle, change, message):
    change_config(tiny_bundle, change)
    with pytest.raises(BundleError, match=message):
        verify_bundle(tiny_bundle)


def test_verify_bundle_with_broken_json_raises(tiny_bundle):
    (tiny_bundle / "captioner.json").write_text('{"format": 1,')
    with pytest.raises(BundleError, match="cannot be read"):
        verify_bundle(tiny_bundle)


def test_captioner_with_weights_of_another_size_raises(tiny_bundle):
    change_config(tiny_bundle, lambda content: content["decoder"].update(hidden_dim=32))
    with pytest.raises(BundleError, match="do not fit"):
        Captioner.load(tiny_bundle)


def test_digest_depends_on_the_decoding_and_not_on_the_card(tiny_bundle):
    before = verify_bundle(tiny_bundle).digest
    update_card(tiny_bundle, {"limits": "trained on dogs only"})
    config = verify_bundle(tiny_bundle)
    assert config.card == {"limits": "trained on dogs only"}
    assert config.digest == before
    assert before.startswith("sha256:")
    change_config(tiny_bundle, lambda content: content["decoding"].update(beam_size=4))
    assert verify_bundle(tiny_bundle).digest != before


@pytest.mark.parametrize(
    ("decoder", "field", "before", "sizes"),
    [
        ("soft_attention", "vector_gate", True, {}),
        ("hard_attention", "vector_gate", True, {}),
        ("transformer", "encoder_norm", False, {"num_encoder_layers": 1, "num_heads": 2}),
    ],
)
def test_load_bundle_without_a_later_field_is_the_model_that_it_was(tmp_path, decoder, field, before, sizes):
    """Bundles were written before these fields; the defaults of new models differ."""
    bundle = write_tiny_bundle(tmp_path / "model", decoder, **{field: before}, **sizes)
    expected = Captioner.load(bundle).caption(PHOTOS[:1])
    change_config(bundle, lambda content: content["decoder"].pop(field))
    assert getattr(load_bundle(bundle)[0].decoder, field) is before
    assert Captioner.load(bundle).caption(PHOTOS[:1]) == expected
    write_tiny_bundle(tmp_path / "new", decoder, **sizes)
    assert getattr(load_bundle(tmp_path / "new")[0].decoder, field) is not before


def test_digest_is_over_the_fields_in_the_file(tiny_bundle):
    """A bundle written before `attention_dim` was a field keeps its digest and gets the default."""
    content = change_config(tiny_bundle, lambda content: content["decoder"].pop("attention_dim"))
    config = verify_bundle(tiny_bundle)
    assert config.decoder.attention_dim == 512
    assert config.digest == digest_of(content)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_load_bundle_with_weights_that_are_not_finite_names_them(tiny_bundle, value):
    config, weights, vocabulary = load_bundle(tiny_bundle)
    name = sorted(name for name in weights if name.startswith("decoder."))[0]
    weights[name].view(-1)[0] = value
    save_bundle(tiny_bundle, config, weights, vocabulary)
    with pytest.raises(BundleError, match=f"'{name}' has values that are NaN or infinite"):
        load_bundle(tiny_bundle)

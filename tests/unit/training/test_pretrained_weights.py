"""Weights that a training can start from."""

import pytest
import torch
from safetensors.torch import save_file

from handler import BundleError
from handler.bundle import load_bundle
from handler.modeling import TopDownConfig, build_decoder
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import Vocabulary, build_vocabulary
from tests.helpers.bundles import write_tiny_bundle
from training.pretrained_weights import load_decoder, load_encoder_weights


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("weights") / "bundle", "top_down", seed=3)


def test_load_encoder_weights_from_bundle_and_files(bundle, tmp_path):
    _, weights, _ = load_bundle(bundle)
    first = Encoder("test_efficientnet")
    load_encoder_weights(first, str(bundle))
    assert torch.equal(first.backbone.conv_stem.weight, weights["encoder.backbone.conv_stem.weight"])
    state = first.backbone.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "x.safetensors")
    torch.save(state, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        other = Encoder("test_efficientnet")
        load_encoder_weights(other, str(tmp_path / name))
        assert all(torch.equal(tensor, state[key]) for key, tensor in other.backbone.state_dict().items())


def test_load_encoder_weights_mismatch_is_named(bundle, tmp_path):
    with pytest.raises(ValueError, match=r"do not fit resnet10t: conv1\.0\.weight"):
        load_encoder_weights(Encoder("resnet10t"), str(bundle))
    with pytest.raises(ValueError, match="no encoder weights 'nowhere'"):
        load_encoder_weights(Encoder("test_efficientnet"), "nowhere")
    with pytest.raises(ValueError, match="No package ships weights for 'test_efficientnet'"):
        load_encoder_weights(Encoder("test_efficientnet"), "package")
    with pytest.raises(BundleError, match="is no model bundle"):
        load_encoder_weights(Encoder("test_efficientnet"), str(tmp_path))


def test_load_encoder_weights_pickle_of_code_is_refused(tmp_path):
    torch.save({"conv_stem.weight": print}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth cannot be read as weights"):
        load_encoder_weights(Encoder("test_efficientnet"), str(tmp_path / "evil.pth"))


def test_load_decoder_matches_tokens_by_name(bundle):
    config, weights, known = load_bundle(bundle)
    vocabulary = build_vocabulary(["a green zebra runs", "the zebra"], 1)
    torch.manual_seed(0)
    decoder = build_decoder(config.decoder, len(vocabulary), Encoder("test_efficientnet").channels)
    fresh = decoder.embedding.weight.clone()
    load_decoder(decoder, vocabulary, bundle)
    for name in ("embedding.weight", "embedding.output_weight", "embedding.output_bias"):
        actual, expected = decoder.state_dict()[name], weights[f"decoder.{name}"]
        for token in ("<start>", "<end>", "<unk>", "green", "runs", "the"):
            assert torch.equal(actual[vocabulary.tokens.index(token)], expected[known.tokens.index(token)]), (
                name,
                token,
            )
    zebra = vocabulary.tokens.index("zebra")
    assert torch.equal(decoder.embedding.weight[zebra], fresh[zebra])
    assert torch.equal(decoder.input_proj[0].weight, weights["decoder.input_proj.0.weight"])


def test_load_decoder_of_other_sizes_is_refused(bundle):
    vocabulary = Vocabulary(load_bundle(bundle)[2].tokens)
    decoder = build_decoder(TopDownConfig(embed_dim=8, hidden_dim=16), len(vocabulary), 256)
    with pytest.raises(ValueError, match=r"another decoder: embedding\.weight differs"):
        load_decoder(decoder, vocabulary, bundle)

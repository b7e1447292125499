"""The average of the weights of several bundles."""

import json

import pytest
import torch

from handler.bundle import load_bundle, save_bundle
from handler.generation import GenerationConfig
from handler.modeling.vocabulary import SPECIAL, Vocabulary
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.commands import run_module_in_process
from training.average_weights import average_bundles


def test_average_bundles_weights_are_the_mean(tmp_path):
    bundles = [write_tiny_bundle(tmp_path / str(seed), seed=seed) for seed in (1, 2, 3)]
    average_bundles(bundles, tmp_path / "mean")
    parts = [load_bundle(bundle)[1] for bundle in bundles]
    config, mean, vocabulary = load_bundle(tmp_path / "mean")
    for name, tensor in mean.items():
        expected = sum(some[name].double() for some in parts) / 3
        torch.testing.assert_close(tensor.double(), expected, atol=1e-3, rtol=1e-3)  # stored in half precision
    assert not torch.equal(mean["decoder.embedding.weight"], parts[0]["decoder.embedding.weight"])
    assert vocabulary.tokens == load_bundle(bundles[0])[2].tokens
    assert config.card["mean_of"] == [load_bundle(bundle)[0].digest for bundle in bundles]
    assert config.card["mean_shares"] == [0.333333] * 3
    assert config.decoding == load_bundle(bundles[0])[0].decoding


def test_average_bundles_shares_weight_each_bundle(tmp_path):
    bundles = [write_tiny_bundle(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    average_bundles(bundles, tmp_path / "mean", [0.25, 0.75], GenerationConfig(beam_size=2, max_length=9))
    first, second = (load_bundle(bundle)[1] for bundle in bundles)
    config, mean, _ = load_bundle(tmp_path / "mean")
    for name, tensor in mean.items():
        if tensor.is_floating_point():
            expected = 0.25 * first[name].double() + 0.75 * second[name].double()
            torch.testing.assert_close(tensor.double(), expected, atol=1e-3, rtol=1e-3)  # stored in half precision
        else:
            assert torch.equal(tensor, first[name])
    assert config.card["mean_shares"] == [0.25, 0.75]
    assert config.decoding == GenerationConfig(beam_size=2, max_length=9)
    average_bundles(bundles, tmp_path / "first", [1, 0])
    assert all(torch.equal(tensor, first[name]) for name, tensor in load_bundle(tmp_path / "first")[1].items())


def test_average_bundles_equal_tensors_stay_equal_to_the_bit(tmp_path):
    bundles = [write_tiny_bundle(tmp_path / str(seed), seed=seed) for seed in (1, 2, 3)]
    config, first, vocabulary = load_bundle(bundles[0])
    encoder = {
        name: torch.rand_like(tensor)
        for name, tensor in first.items()
        if name.startswith("encoder.") and tensor.is_floating_point()
    }
    for bundle in bundles:
        save_bundle(bundle, config, load_bundle(bundle)[1] | encoder, vocabulary)
    first = load_bundle(bundles[0])[1]
    average_bundles(bundles, tmp_path / "mean", [0.35, 0.35, 0.3])
    mean = load_bundle(tmp_path / "mean")[1]
    assert all(torch.equal(tensor, first[name]) for name, tensor in mean.items() if name.startswith("encoder."))
    assert not torch.equal(mean["decoder.embedding.weight"], first["decoder.embedding.weight"])


def test_average_bundles_matches_the_tokens_of_another_vocabulary_by_name(tmp_path):
    first = write_tiny_bundle(tmp_path / "first")
    config, weights, vocabulary = load_bundle(first)
    kept = [*range(len(SPECIAL)), *reversed(range(len(SPECIAL) + 1, len(vocabulary)))]  # one word fewer, reversed
    per_token = [name for name, tensor in weights.items() if tensor.shape[:1] == (len(vocabulary),)]
    assert per_token
    other = weights | {name: 3 * weights[name][kept] for name in per_token}
    save_bundle(tmp_path / "other", config, other, Vocabulary(vocabulary.decode(kept)))
    average_bundles([first, tmp_path / "other"], tmp_path / "mean")
    _, mean, tokens = load_bundle(tmp_path / "mean")
    assert tokens.tokens == vocabulary.tokens
    missing = len(SPECIAL)
    for name, tensor in mean.items():
        factor = torch.full(tensor.shape[:1], 2.0 if name in per_token else 1.0)
        if name in per_token:
            factor[missing] = 1.0  # only the first bundle has this token
        expected = weights[name].float() * factor.view(-1, *[1] * (tensor.ndim - 1)) if tensor.ndim else weights[name]
        torch.testing.assert_close(tensor.float(), expected.float(), atol=2e-3, rtol=2e-3)  # stored in half precision


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.3, 0.6], "Weights must be at least 0 and sum to 1, not 0.3 + 0.6."),
        ([1.5, -0.5], "Weights must be at least 0 and sum to 1, not 1.5 + -0.5."),
        ([float("nan"), 1.0], "Weights must be at least 0 and sum to 1, not nan + 1."),
        ([1.0], "There are 1 weights for 2 bundles: give one for each."),
    ],
)
def test_average_weights_wrong_shares_are_refused_in_one_sentence(tmp_path, shares, message):
    bundles = [write_tiny_bundle(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    arguments = [*bundles, "--data=samples", f"--output={tmp_path / 'mean'}", "--weights", *shares]
    code, _, errors = run_module_in_process("training.average_weights", *arguments)
    assert (code, errors) == (1, f"{message}\n")
    assert not (tmp_path / "mean").exists()


def test_average_weights_sets_decoding_options_of_the_bundle(tmp_path):
    bundles = [write_tiny_bundle(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    options = ["--beam-size=4", "--no-repeat-words"]
    arguments = [*bundles, "--data=samples", f"--output={tmp_path / 'mean'}", *options]
    code, _, errors = run_module_in_process("training.average_weights", *arguments)  # without splits to score
    assert code == 0, errors
    decoding = load_bundle(tmp_path / "mean")[0].decoding
    assert decoding == GenerationConfig(beam_size=4, max_length=8, no_repeat_words=True)  # 8 is of the first bundle


def test_average_bundles_other_architecture_or_one_bundle_is_refused(tmp_path):
    one, other = (write_tiny_bundle(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    content = json.loads((other / "captioner.json").read_text())
    content["decoder"]["attention_dim"] = 99
    (other / "captioner.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="2 has another decoder than "):
        average_bundles([one, other], tmp_path / "mean")
    with pytest.raises(ValueError, match="An average needs at least two bundles"):
        average_bundles([one], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()

"""The average of the weights of several bundles."""

import json

import pytest
import torch

from handler.bundle import load_bundle
from tests.helpers.bundles import write_tiny_bundle
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

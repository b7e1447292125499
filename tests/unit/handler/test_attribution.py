"""Attribution: gradients worked out by hand, and every decoder."""

import numpy as np
import pytest
import torch

from handler import Captioner, GenerationConfig
from handler.attribution import entropy, input_x_gradient
from handler.modeling import DECODERS, TeacherForcingOutput
from handler.modeling.vocabulary import Vocabulary
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS

VOCABULARY = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "dog", "cat"])


class Mean(torch.nn.Module):
    """A decoder whose logits are the channels of the mean cell, for any tokens."""

    def forward(self, grid: torch.Tensor, tokens: torch.Tensor) -> TeacherForcingOutput:
        mean = grid.mean(1)  # (B, C), C = V
        return TeacherForcingOutput(mean.unsqueeze(1).expand(-1, tokens.shape[2], -1).flatten(0, 1), None)


def test_input_x_gradient_matches_values_by_hand():
    """d log p(dog) / d g = (onehot - p) / cells; times g, summed over channels, negative sums set to 0."""
    grid = torch.tensor([[0.0, 0, 0, 0, 4, 0], [0, 0, 0, 0, 2, 6]])  # cells × channels
    mean = grid.mean(0).numpy()
    p = np.exp(mean) / np.exp(mean).sum()
    expected = []
    for word in (4, 5):
        products = ((np.eye(6)[word] - p) / 2 * grid.numpy()).sum(1).clip(0)
        expected.append(products / products.sum())
    found = input_x_gradient(Mean(), grid, [4, 5], VOCABULARY)
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert found[0, 0] == 1  # the second cell speaks for a cat and so against a dog
    assert input_x_gradient(Mean(), grid, [], VOCABULARY).shape == (0, 2)
    nothing = input_x_gradient(Mean(), torch.zeros(4, 6), [4], VOCABULARY)
    assert nothing.tolist() == [[0.25] * 4]


@pytest.mark.parametrize(
    ("weights", "bits"), [([0.25] * 4, 2), ([1, 0, 0, 0], 0), ([0.5, 0.5, 0, 0], 1), ([0.7, 0.3, 0, 0], 0.88129)]
)
def test_entropy_of_weights_is_in_bits(weights, bits):
    assert entropy(torch.tensor([weights]).view(1, 2, 2)).item() == pytest.approx(bits, abs=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_explain_with_every_decoder_attributes_each_token(tmp_path, name):
    captioner = Captioner.load(write_tiny_bundle(tmp_path / "model", name))
    assert captioner.explanation_methods == (
        ("attention", "gradient") if DECODERS[name].has_attention else ("gradient",)
    )
    options = GenerationConfig(beam_size=4, num_captions=2, max_length=6)
    plain = [caption.tokens for caption in captioner.caption(PHOTOS[:1], options)[0]]
    for method in captioner.explanation_methods:
        captions = captioner.explain(PHOTOS[0], options, method)
        assert [caption.tokens for caption in captions] == plain
        for caption in captions:
            assert caption.attributions.shape == (len(caption.tokens), 2, 2)
            assert caption.attributions.sum((-2, -1)).tolist() == pytest.approx([1] * len(caption.tokens), abs=1e-4)
            assert (caption.attributions >= 0).all()
    with pytest.raises(ValueError, match="for this model, not magic"):
        captioner.explain(PHOTOS[0], method="magic")

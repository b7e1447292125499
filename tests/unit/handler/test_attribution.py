"""What words rest on: gradients worked out by hand, every decoder, the figure, and whether hiding it matters."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from eval.faithfulness import hide, interval
from handler import Captioner, GenerationConfig
from handler.attribution import entropy, input_x_gradient
from handler.modeling import DECODERS, TeacherForcingOutput
from handler.modeling.vocabulary import Vocabulary
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS, ROOT

VOCABULARY = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "dog", "cat"])


class Mean(torch.nn.Module):
    """Each word's logit is one channel of the grid's mean, whatever the words before it."""

    def forward(self, grid: torch.Tensor, tokens: torch.Tensor) -> TeacherForcingOutput:
        mean = grid.mean(1)  # (B, C), C = V
        return TeacherForcingOutput(mean.unsqueeze(1).expand(-1, tokens.shape[2], -1).flatten(0, 1), None)


def test_gradients_by_hand():
    """d log p(dog) / d g = (onehot - p) / cells; times g, summed up over channels, the negative cut off."""
    grid = torch.tensor([[0.0, 0, 0, 0, 4, 0], [0, 0, 0, 0, 2, 6]])  # cells × channels
    mean = grid.mean(0).numpy()
    p = np.exp(mean) / np.exp(mean).sum()
    expected = []
    for word in (4, 5):
        products = ((np.eye(6)[word] - p) / 2 * grid.numpy()).sum(1).clip(0)
        expected.append(products / products.sum())
    found = input_x_gradient(Mean(), grid, [4, 5], VOCABULARY)
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert found[0, 0] == 1  # the second cell speaks for a cat, and so against a dog
    assert input_x_gradient(Mean(), grid, [], VOCABULARY).shape == (0, 2)
    nothing = input_x_gradient(Mean(), torch.zeros(4, 6), [4], VOCABULARY)
    assert nothing.tolist() == [[0.25] * 4]


@pytest.mark.parametrize(
    ("weights", "bits"), [([0.25] * 4, 2), ([1, 0, 0, 0], 0), ([0.5, 0.5, 0, 0], 1), ([0.7, 0.3, 0, 0], 0.88129)]
)
def test_entropy_is_in_bits(weights, bits):
    assert entropy(torch.tensor([weights]).view(1, 2, 2)).item() == pytest.approx(bits, abs=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_explains_its_words(tmp_path, name):
    captioner = Captioner.load(write_tiny_bundle(tmp_path / "model", name))
    assert captioner.explanation_methods == (("gradient",) if name == "nic" else ("attention", "gradient"))
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


def test_hidden_cells_get_the_mean_colour():
    pixels = torch.arange(3 * 4 * 4, dtype=torch.uint8).view(3, 4, 4)
    [hidden] = hide(pixels, torch.tensor([[1]]), (2, 2))  # the grid's upper right cell
    assert hidden[0].tolist() == [[0, 1, 8, 8], [4, 5, 8, 8], [8, 9, 10, 11], [12, 13, 14, 15]]  # 7.5 rounds to even
    assert (hidden[:, 2:] == pixels[:, 2:]).all()


def test_an_interval_holds_the_mean():
    low, high = interval(np.array([1.0, 2, 3, 4]))
    assert 1 < low < 2.5 < high < 4
    assert interval(np.array([2.0, 2])) == (2, 2)


def test_what_is_said_to_matter_matters():
    """On the samples: words fall further when their heaviest cells are hidden than when their lightest are."""
    command = [sys.executable, "-m", "eval.faithfulness", "pretrained", "samples", "photos", "--pictures", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| attention", "| gradient"]
    for _, heaviest, _, lightest, _ in rows:
        assert float(heaviest) > float(lightest)
    assert subprocess.run([*command, "--share", "1"], cwd=ROOT, capture_output=True, text=True).returncode == 1

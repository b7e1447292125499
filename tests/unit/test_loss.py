"""The loss, worked by hand."""

import math

import pytest
import torch

from training.loss import caption_loss

PAD = 0


def logits_of(*rows):
    """(1, 1, T, V) logits from probabilities."""
    return torch.tensor(rows).log().view(1, 1, len(rows), -1)


def test_cross_entropy_is_a_token_and_padding_counts_for_nothing():
    logits = logits_of([0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05])
    loss, entropy = caption_loss(logits, None, torch.tensor([[[1, 2, PAD]]]), pad=PAD)
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    assert entropy.item() == pytest.approx(loss.item())


def test_label_smoothing():
    # 0.9 * -ln 0.5 + 0.1 * mean(-ln 0.2, -ln 0.5, -ln 0.3)
    loss, entropy = caption_loss(logits_of([0.2, 0.5, 0.3]), None, torch.tensor([[[1]]]), pad=PAD, label_smoothing=0.1)
    uniform = -(math.log(0.2) + math.log(0.5) + math.log(0.3)) / 3
    assert loss.item() == pytest.approx(0.9 * -math.log(0.5) + 0.1 * uniform)
    assert entropy.item() == pytest.approx(-math.log(0.5))


def test_doubly_stochastic_term():
    logits = logits_of([0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0.2, 0.5, 0.3])
    attention = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.0, 1.0]]).view(1, 1, 3, 2)
    targets = torch.tensor([[[1, 1, PAD]]])  # the third step is padding: the cells got 1.6 and 0.4
    loss, entropy = caption_loss(logits, attention, targets, pad=PAD, doubly_stochastic=0.5)
    assert (loss - entropy).item() == pytest.approx(0.5 * ((1 - 1.6) ** 2 + (1 - 0.4) ** 2) / 2)


def test_an_absent_caption_adds_nothing():
    one = logits_of([0.2, 0.5, 0.3])
    attention = torch.tensor([0.25, 0.75]).view(1, 1, 1, 2)
    alone = caption_loss(one, attention, torch.tensor([[[1]]]), pad=PAD, doubly_stochastic=1.0)
    padded = caption_loss(
        one.repeat(1, 2, 1, 1),
        attention.repeat(1, 2, 1, 1),
        torch.tensor([[[1], [PAD]]]),
        pad=PAD,
        doubly_stochastic=1.0,
    )
    assert padded[0].item() == pytest.approx(alone[0].item())

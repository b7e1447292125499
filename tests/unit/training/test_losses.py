"""Losses, compared with values computed by hand."""

import math

import numpy as np
import pytest
import torch

from handler.modeling import TeacherForcingOutput
from handler.modeling.vocabulary import build_vocabulary
from training.losses import (
    Normalizers,
    advantages,
    caption_sums,
    cross_entropy,
    doubly_stochastic,
    hard_attention,
    log_policy,
    self_critical_loss,
)

VOCABULARY = build_vocabulary(["a dog runs", "a cat sits"], 1)
SIZE = len(VOCABULARY)


def logits_of(*rows):
    """(N, V) logits from probabilities."""
    return torch.tensor(rows).log()


def test_cross_entropy_is_per_token_of_the_whole_step():
    logits, targets = logits_of([0.2, 0.5, 0.3], [0.1, 0.1, 0.8]), torch.tensor([1, 2])
    loss, logprobs = cross_entropy(logits, targets, Normalizers(tokens=2, captions=1))
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    assert logprobs.tolist() == pytest.approx([math.log(0.5), math.log(0.8)])
    share, _ = cross_entropy(logits, targets, Normalizers(tokens=8, captions=4))  # another process has six more tokens
    assert share.item() == pytest.approx(loss.item() / 4)


def test_cross_entropy_label_smoothing_mixes_in_uniform():
    # 0.9 * -ln 0.5 + 0.1 * mean(-ln 0.2, -ln 0.5, -ln 0.3)
    loss, _ = cross_entropy(logits_of([0.2, 0.5, 0.3]), torch.tensor([1]), Normalizers(1, 1), label_smoothing=0.1)
    uniform = -(math.log(0.2) + math.log(0.5) + math.log(0.3)) / 3
    assert loss.item() == pytest.approx(0.9 * -math.log(0.5) + 0.1 * uniform)


def test_doubly_stochastic_equals_manual_value():
    attention = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.0, 1.0]]).view(1, 1, 3, 2)
    mask = torch.tensor([[[True, True, False]]])  # the third step is padding: the cells got 1.6 and 0.4
    term = ((1 - 1.6) ** 2 + (1 - 0.4) ** 2) / 2
    assert doubly_stochastic(attention, mask, Normalizers(2, 1)).item() == pytest.approx(term)
    # a missing caption adds nothing
    two = doubly_stochastic(attention.repeat(1, 2, 1, 1), torch.cat([mask, mask & False], 1), Normalizers(2, 1))
    assert two.item() == pytest.approx(term)


def test_hard_attention_equals_manual_value_and_gradient_sign():
    """One caption of two words; at the first the second cell was sampled, at the second none."""
    attention = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).view(1, 1, 2, 2).requires_grad_()
    output = TeacherForcingOutput(torch.empty(0), attention, torch.tensor([[[1, -1]]]))
    mask, logprobs = torch.tensor([[[True, True]]]), torch.tensor([-1.0, -2.5])
    loss = hard_attention(output, mask, logprobs, baseline=-3.0, weights=(0.5, 0.1), counts=Normalizers(2, 1))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) + math.log(2)
    # half of (reward -3.5, baseline -3) * ln 0.25, and a tenth of the entropy, a token
    assert loss.item() == pytest.approx(-(0.5 * (-3.5 + 3.0) * math.log(0.25) + 0.1 * entropy) / 2)
    loss.backward()
    assert attention.grad[0, 0, 0, 1] > 0  # a reward below the baseline lowers the attention there


def test_caption_sums_add_the_tokens_of_each_caption():
    mask = torch.tensor([[[True, True], [True, False]], [[True, False], [False, False]]])
    assert caption_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]), mask).tolist() == [[3.0, 4.0], [8.0, 0.0]]


def test_advantages_leave_one_out_subtracts_mean_of_the_others():
    actual = advantages(np.array([[1.0, 2.0, 6.0]]), None)
    np.testing.assert_allclose(actual, [[1 - 4, 2 - 3.5, 6 - 1.5]])  # the means of the others are 4, 3.5 and 1.5


def test_advantages_greedy_subtracts_greedy_reward():
    np.testing.assert_allclose(
        advantages(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1.5, 1.0])), [[-0.5, 0.5], [2, -1]]
    )


def test_log_policy_never_emits_special_tokens():
    probabilities = log_policy(torch.zeros(SIZE), VOCABULARY, 0.5).exp()
    assert probabilities[[VOCABULARY.pad_id, VOCABULARY.bos_id, VOCABULARY.unk_id]].sum() == 0
    assert probabilities.sum().item() == pytest.approx(1)
    two = log_policy(torch.tensor([0.0, 0, 1, 0, 2] + [-99.0] * (SIZE - 5)), VOCABULARY, 0.5)
    assert (two[4] - two[2]).item() == pytest.approx(2.0)  # a difference of 1, over the temperature 0.5


def test_self_critical_loss_equals_manual_value():
    logits = torch.full((3, SIZE), -99.0)
    logits[:, VOCABULARY.eos_id], logits[:, 4] = 0.0, math.log(3)  # at temperature 1: 1/4 and 3/4
    targets = torch.tensor([4, VOCABULARY.eos_id, VOCABULARY.eos_id])
    mask = torch.tensor([[[True, True], [True, False]]])  # captions "4 <end>" and "<end>"
    loss = self_critical_loss(logits, targets, torch.tensor([[2.0, -1.0]]), mask, VOCABULARY, temperature=1.0, tokens=3)
    assert loss.item() == pytest.approx(-(2 * (math.log(0.75) + math.log(0.25)) - math.log(0.25)) / 3, abs=1e-5)

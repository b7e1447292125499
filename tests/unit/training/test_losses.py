"""The losses, worked by hand."""

import math

import pytest
import torch

from handler.modeling import TeacherForcingOutput
from training.losses import Counts, caption_sums, cross_entropy, doubly_stochastic, hard_attention
from training.optim import lr_multiplier


def logits_of(*rows):
    """(N, V) logits from probabilities."""
    return torch.tensor(rows).log()


def test_cross_entropy_is_a_token_of_the_whole_step():
    logits, targets = logits_of([0.2, 0.5, 0.3], [0.1, 0.1, 0.8]), torch.tensor([1, 2])
    loss, logprobs = cross_entropy(logits, targets, Counts(tokens=2, captions=1))
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    assert logprobs.tolist() == pytest.approx([math.log(0.5), math.log(0.8)])
    share, _ = cross_entropy(logits, targets, Counts(tokens=8, captions=4))  # another process has six more
    assert share.item() == pytest.approx(loss.item() / 4)


def test_label_smoothing():
    # 0.9 * -ln 0.5 + 0.1 * mean(-ln 0.2, -ln 0.5, -ln 0.3)
    loss, _ = cross_entropy(logits_of([0.2, 0.5, 0.3]), torch.tensor([1]), Counts(1, 1), label_smoothing=0.1)
    uniform = -(math.log(0.2) + math.log(0.5) + math.log(0.3)) / 3
    assert loss.item() == pytest.approx(0.9 * -math.log(0.5) + 0.1 * uniform)


def test_doubly_stochastic_term():
    attention = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.0, 1.0]]).view(1, 1, 3, 2)
    present = torch.tensor([[[True, True, False]]])  # the third step is padding: the cells got 1.6 and 0.4
    term = ((1 - 1.6) ** 2 + (1 - 0.4) ** 2) / 2
    assert doubly_stochastic(attention, present, Counts(2, 1)).item() == pytest.approx(term)
    # a caption that is not there adds nothing
    two = doubly_stochastic(attention.repeat(1, 2, 1, 1), torch.cat([present, present & False], 1), Counts(2, 1))
    assert two.item() == pytest.approx(term)


def test_hard_attentions_term():
    """One caption of two words; at the first the second cell was sampled, at the second none."""
    attention = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).view(1, 1, 2, 2).requires_grad_()
    forced = TeacherForcingOutput(torch.empty(0), attention, torch.tensor([[[1, -1]]]))
    present, logprobs = torch.tensor([[[True, True]]]), torch.tensor([-1.0, -2.5])
    loss = hard_attention(forced, present, logprobs, baseline=-3.0, weights=(0.5, 0.1), counts=Counts(2, 1))
    spread = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) + math.log(2)
    # half of (reward -3.5, baseline -3) * ln 0.25, and a tenth of the entropy, a token
    assert loss.item() == pytest.approx(-(0.5 * (-3.5 + 3.0) * math.log(0.25) + 0.1 * spread) / 2)
    loss.backward()
    assert attention.grad[0, 0, 0, 1] > 0  # worse than usual: look there less


def test_a_captions_tokens_are_summed():
    present = torch.tensor([[[True, True], [True, False]], [[True, False], [False, False]]])
    assert caption_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]), present).tolist() == [[3.0, 4.0], [8.0, 0.0]]


@pytest.mark.parametrize(
    ("step", "options", "factor"),
    [
        (0, {"warmup": 4, "schedule": "cosine"}, 0.25),
        (3, {"warmup": 4, "schedule": "cosine"}, 1.0),
        (7, {"warmup": 4, "schedule": "cosine"}, 0.75),  # a third of the way down: (1 + cos 60°) / 2
        (10, {"warmup": 4, "schedule": "cosine"}, 0.25),  # two thirds: (1 + cos 120°) / 2
        (9, {"warmup": 2, "schedule": "constant"}, 1.0),
        (9, {"warmup": 0, "schedule": "step", "decay": 0.5, "decay_steps": 4}, 0.25),
        (1, {"warmup": 99, "schedule": "cosine"}, 2 / 13),  # warm-up is no longer than the training
    ],
)
def test_the_learning_rates_schedule(step, options, factor):
    assert lr_multiplier(step, 13, **options) == pytest.approx(factor)

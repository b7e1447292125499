"""Learning rate, optimizer groups and the moving average."""

import pytest
import torch

from training.optim import ema_update, lr_multiplier, set_learning_rate


@pytest.mark.parametrize(
    ("step", "options", "factor"),
    [
        (0, {"warmup": 4, "schedule": "cosine"}, 0.25),
        (3, {"warmup": 4, "schedule": "cosine"}, 1.0),
        (7, {"warmup": 4, "schedule": "cosine"}, 0.75),  # a third of the way down: (1 + cos 60°) / 2
        (10, {"warmup": 4, "schedule": "cosine"}, 0.25),  # two thirds: (1 + cos 120°) / 2
        (9, {"warmup": 2, "schedule": "constant"}, 1.0),
        (9, {"warmup": 0, "schedule": "step", "decay": 0.5, "decay_steps": 4}, 0.25),
        (1, {"warmup": 99, "schedule": "cosine"}, 2 / 13),  # the warm-up is at most the training
    ],
)
def test_lr_multiplier_at_a_step_equals_manual_value(step, options, factor):
    assert lr_multiplier(step, 13, **options) == pytest.approx(factor)


def test_ema_update_decay_is_lower_for_the_first_updates():
    averaged, current = [torch.tensor([1.0])], [torch.tensor([3.0])]
    ema_update(0.9)(averaged, current, torch.tensor(1))  # decay 2/11: 1 + 9/11 · 2
    assert averaged[0].item() == pytest.approx(1 + 18 / 11)
    ema_update(0.9)(averaged, [torch.tensor([0.0])], torch.tensor(1000))
    assert averaged[0].item() == pytest.approx(0.9 * (1 + 18 / 11))


def test_set_learning_rate_scales_each_group():
    groups = [{"params": [torch.ones(1)], "scale": 1.0}, {"params": [torch.ones(1)], "scale": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05])

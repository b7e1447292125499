"""AdamW, learning rate schedule and moving average of the weights."""

import math
from collections.abc import Callable

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.config import TrainingConfig
from training.model import CaptionModel

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def build_optimizer(model: CaptionModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """Create AdamW with a parameter group each for the decoder and the fine-tuned part of the encoder.

    Each group holds the ratio of its learning rate to `config.learning_rate` as `scale`.
    """
    parameters = model.trainable_parameters()
    scales = {"decoder.": 1.0, "encoder.": config.encoder_learning_rate / config.learning_rate}
    groups = [
        {"params": [tensor for name, tensor in parameters.items() if name.startswith(prefix)], "scale": scale}
        for prefix, scale in scales.items()
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of each group to `rate` times its `scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def lr_multiplier(
    step: int, total: int, *, warmup: int, schedule: str, decay: float = 1.0, decay_steps: int = 1
) -> float:
    """Compute the factor of the peak learning rate at a step, 0 to 1.

    This is a pure function of the step. `LambdaLR` would add a counter, which has to be saved and restored.

    Args:
        step: Step of the phase, from 0.
        total: Number of steps of the phase.
        warmup: Steps of linear warm-up to 1; at most `total`.
        schedule: After warm-up: `cosine` falls to 0 at the last step, `step` multiplies by `decay` every `decay_steps`
            counted from step 0, `constant` stays 1.
        decay: Factor of the `step` schedule.
        decay_steps: Steps between two decays of the `step` schedule.
    """
    warmup = min(warmup, total)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return float(decay ** (step // decay_steps)) if schedule == "step" else 1.0


def ema_update(decay: float) -> Callable[[Tensors, Tensors, torch.Tensor | int], None]:
    """Create the update of an exponential moving average for `AveragedModel`.

    The decay of update n is at most (1 + n) / (10 + n), so that the initial weights are forgotten quickly.
    """

    def update(averaged: Tensors, current: Tensors, num_averaged: torch.Tensor | int) -> None:
        warmup = (1 + int(num_averaged)) / (10 + int(num_averaged))
        update_with_decay = get_ema_multi_avg_fn(min(decay, warmup))  # type: ignore[no-untyped-call]  # untyped in torch
        update_with_decay(averaged, current, num_averaged)

    return update

"""The learning rate of a step."""

import math


def lr_multiplier(
    step: int, total: int, *, warmup: int, schedule: str, decay: float = 1.0, decay_steps: int = 1
) -> float:
    """What the learning rate is multiplied by at a step, 0 to 1.

    Args:
        step: from 0.
        total: steps in all.
        warmup: steps over which the factor rises evenly to 1; at most `total`.
        schedule: after that, `cosine` falls to 0 at the end, `step` multiplies by `decay` every `decay_steps` counted
            from the beginning, `constant` stays 1.
        decay: see schedule.
        decay_steps: see schedule.
    """
    warmup = min(warmup, total)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return decay ** (step // decay_steps) if schedule == "step" else 1.0

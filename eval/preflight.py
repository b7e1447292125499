"""Check that every metric can be computed, before hours of captioning or training."""

import sys

from eval import spice
from eval.meteor import Meteor
from eval.metrics import compute_all_metrics

CAPTIONS = {1: "a dog runs", 2: "a red car"}


def check_metrics(meteor: Meteor | None) -> dict[str, str]:
    """Score two captions, and print to standard error which metrics fail.

    Args:
        meteor: Running METEOR process; None if METEOR is not requested.

    Returns:
        The reason by metric. The scores will lack these metrics.

    Raises:
        JavaError: If the tokenizer fails, which all metrics need.
    """
    reasons = compute_all_metrics({image: [text] for image, text in CAPTIONS.items()}, CAPTIONS, meteor).not_measured
    requested = {"METEOR": meteor is not None, "SPICE": spice.is_installed()}
    failing = {name: reason for name, reason in reasons.items() if requested[name]}
    for name, reason in failing.items():
        print(f"{name} cannot be measured, the other metrics can: {reason}.", file=sys.stderr)
    return failing

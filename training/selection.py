"""Selection of the best epoch: a mix of CIDEr and of likeness to people."""

from collections.abc import Mapping
from typing import Any


def selection_score(content: Mapping[str, Any], likeness_weight: float) -> float:
    """Compute CIDEr + weight × min(1, likeness / likeness of people); higher is better.

    CIDEr alone selects models with few words: it pays for what is common. See `eval/likeness.py` for the likeness.

    Args:
        content: Result of `eval.summary.summarize`.
        likeness_weight: Weight of the relative likeness; 0 selects by CIDEr alone.

    Returns:
        The score; CIDEr alone if the images have one reference each, so that the likeness of people is unknown.
    """
    cider: float = content["scores"].get("CIDEr", 0.0)  # undefined if all references are equal
    likeness = content["measures"].get("likeness")
    if not likeness or not likeness["people"]:
        return cider
    relative: float = likeness["model"] / likeness["people"]
    return cider + likeness_weight * min(1.0, relative)

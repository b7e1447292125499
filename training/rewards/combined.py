"""Weighted sum of rewards and penalties (Liu et al. 2017, https://arxiv.org/abs/1612.00370)."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from handler.modeling.vocabulary import Vocabulary
from training.config import SelfCriticalConfig
from training.rewards.bleu import SentenceBleu
from training.rewards.cider_d import CiderD
from training.rewards.length_deviation import LengthDeviation
from training.rewards.ngram_overuse import NgramOveruse
from training.rewards.repetition import Repetition

Array = np.ndarray[Any, np.dtype[np.float64]]
Captions = Sequence[Sequence[int]]


class Reward(Protocol):
    """A score of captions of images."""

    def score(self, images: Sequence[int], captions: Captions, /) -> Array:
        """Score captions.

        Args:
            images: Index of the image of each caption, in the order of the references.
            captions: Token ids of each caption.

        Returns:
            (captions,).
        """


class CombinedReward:
    """Weighted sum of rewards.

    Args:
        parts: Weight and reward by name; the weight of a penalty is negative.
    """

    def __init__(self, **parts: tuple[float, Reward]) -> None:
        self.parts = parts
        self.overuse = next((part for _, part in parts.values() if isinstance(part, NgramOveruse)), None)

    def score(self, images: Sequence[int], captions: Captions) -> dict[str, Array]:
        """Return the scores of each reward by name; see `Reward.score`."""
        return {name: reward.score(images, captions) for name, (_, reward) in self.parts.items()}

    def total(self, scores: Mapping[str, Array]) -> Array:
        """Return the weighted sum of the result of `score`."""
        weighted = [self.parts[name][0] * score for name, score in scores.items()]
        return np.asarray(sum(weighted))


def build_reward(
    config: SelfCriticalConfig, references: Sequence[Captions], groups: Sequence[int], vocabulary: Vocabulary
) -> CombinedReward:
    """Create the reward of CIDEr-D, and the other parts whose weight is not 0.

    Args:
        config: Weights.
        references: Reference captions of each image as token ids, with `<end>` unless truncated.
        groups: Group of each image, see `NgramOveruse`.
        vocabulary: Vocabulary of the ids.
    """
    parts: dict[str, tuple[float, Reward]] = {"cider_d": (1.0, CiderD(references))}
    if config.bleu:
        parts["bleu_4"] = config.bleu, SentenceBleu(references)
    if config.overuse:
        parts["overuse"] = -config.overuse, NgramOveruse(references, groups)
    if config.repetition:
        parts["repetition"] = -config.repetition, Repetition(vocabulary)
    if config.length:
        parts["length"] = -config.length, LengthDeviation(references)
    return CombinedReward(**parts)

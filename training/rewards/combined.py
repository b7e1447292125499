"""Weighted sum of rewards (Liu et al. 2017, https://arxiv.org/abs/1612.00370)."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from handler.modeling.vocabulary import Vocabulary
from training.rewards.bleu import SentenceBleu
from training.rewards.cider_d import CiderD
from training.rewards.meteor import SentenceMeteor

Array = np.ndarray[Any, np.dtype[np.float64]]
Captions = Sequence[Sequence[int]]


class Reward(Protocol):
    """A score of captions against the references of their images."""

    def score(self, images: Sequence[int], captions: Captions) -> Array:
        """Score captions.

        Args:
            images: Index of the image of each caption, in the order of the references.
            captions: Token ids of each caption.

        Returns:
            (captions,).
        """


class CombinedReward:
    """Weighted sum of rewards.

    CIDEr-D alone rewards the few words that distinguish an image, so captions get short. METEOR also rewards recall.

    Args:
        parts: Weight and reward by name.
    """

    def __init__(self, **parts: tuple[float, Reward]) -> None:
        self.parts = parts

    def score(self, images: Sequence[int], captions: Captions) -> dict[str, Array]:
        """Return the scores of each reward by name; see `Reward.score`."""
        return {name: reward.score(images, captions) for name, (_, reward) in self.parts.items()}

    def total(self, scores: Mapping[str, Array]) -> Array:
        """Return the weighted sum of the result of `score`."""
        weighted = [self.parts[name][0] * score for name, score in scores.items()]
        return np.asarray(sum(weighted))


def build_reward(references: Sequence[Captions], vocabulary: Vocabulary, bleu: float, meteor: float) -> CombinedReward:
    """Create the reward of CIDEr-D, and of BLEU-4 and METEOR if their weight is not 0.

    Args:
        references: Reference captions of each image as token ids, with `<end>` unless truncated.
        vocabulary: Vocabulary of the ids.
        bleu: Weight of BLEU-4.
        meteor: Weight of METEOR.
    """
    parts: dict[str, tuple[float, Reward]] = {"cider_d": (1.0, CiderD(references))}
    if bleu:
        parts["bleu_4"] = bleu, SentenceBleu(references)
    if meteor:
        parts["meteor"] = meteor, SentenceMeteor(references, vocabulary)
    return CombinedReward(**parts)

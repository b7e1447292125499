"""What self-critical training rewards a caption for: one score a file, each called alike, and their mixture."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from handler.modeling.vocabulary import Vocabulary
from training.rewards.bleu import SentenceBleu
from training.rewards.cider_d import CiderD
from training.rewards.meteor import SentenceMeteor

Captions = Sequence[Sequence[int]]


class Reward(Protocol):
    """A score of captions against the references of their images."""

    def score(self, images: Sequence[int], captions: Captions) -> np.ndarray:
        """Images, counted from 0 in the order of the references, and a caption's ids for each → (captions,)."""


class CombinedReward:
    """The weighted sum of rewards (Liu et al. 2017, https://arxiv.org/abs/1612.00370).

    CIDEr-D alone asks for the few words that tell an image from others, and captions get short; METEOR counts what of a
    reference is missing.

    Args:
        parts: weights and rewards, by their names.
    """

    def __init__(self, **parts: tuple[float, Reward]):
        self.parts = parts

    def score(self, images: Sequence[int], captions: Captions) -> dict[str, np.ndarray]:
        """Each reward's scores, by its name; see `Reward`."""
        return {name: reward.score(images, captions) for name, (_, reward) in self.parts.items()}

    def total(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """The weighted sum of what `score` gives."""
        return sum(self.parts[name][0] * score for name, score in scores.items())


def build_reward(references: Sequence[Captions], vocabulary: Vocabulary, bleu: float, meteor: float) -> CombinedReward:
    """CIDEr-D, and beside it the others where they weigh anything.

    Args:
        references: for each image its reference captions as token ids, `<end>` where they end.
        vocabulary: the ids'.
        bleu: weight of BLEU-4.
        meteor: weight of METEOR.
    """
    parts: dict[str, tuple[float, Reward]] = {"cider_d": (1.0, CiderD(references))}
    if bleu:
        parts["bleu_4"] = bleu, SentenceBleu(references)
    if meteor:
        parts["meteor"] = meteor, SentenceMeteor(references, vocabulary)
    return CombinedReward(**parts)

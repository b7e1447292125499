"""Reward of self-critical training: CIDEr-D and BLEU-4, less penalties, as a weighted sum."""

from training.rewards.bleu import SentenceBleu
from training.rewards.cider_d import CiderD
from training.rewards.combined import CombinedReward, Reward, build_reward
from training.rewards.length_deviation import LengthDeviation
from training.rewards.ngram_overuse import NgramOveruse
from training.rewards.repetition import Repetition

__all__ = [
    "CiderD",
    "CombinedReward",
    "LengthDeviation",
    "NgramOveruse",
    "Repetition",
    "Reward",
    "SentenceBleu",
    "build_reward",
]

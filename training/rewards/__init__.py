"""Rewards of self-critical training: CIDEr-D, BLEU-4, METEOR and their weighted sum."""

from training.rewards.bleu import SentenceBleu
from training.rewards.cider_d import CiderD
from training.rewards.combined import CombinedReward, Reward, build_reward
from training.rewards.meteor import SentenceMeteor

__all__ = ["CiderD", "CombinedReward", "Reward", "SentenceBleu", "SentenceMeteor", "build_reward"]

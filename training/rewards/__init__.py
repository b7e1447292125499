"""Rewards of self-critical training."""

from training.rewards.combined import CombinedReward, build_reward

__all__ = ["CombinedReward", "build_reward"]

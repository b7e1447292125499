"""Rewards of self-critical training."""

from training.rewards.combined import Mixture, build_reward

__all__ = ["Mixture", "build_reward"]

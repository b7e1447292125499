"""What cross-entropy training minimises."""

from typing import NamedTuple

import torch

from handler.modeling import TeacherForcingOutput


class Counts(NamedTuple):
    """What the sums are divided by: of the whole step, over all processes."""

    tokens: float
    captions: float


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, counts: Counts, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy a token.

    Args:
        logits: (N, V).
        targets: (N,).
        counts: of the whole step.
        label_smoothing: share of a target's probability spread evenly over the vocabulary, 0 to below 1.

    Returns:
        What is to be minimised, and each token's log-probability (N,), in nats, without a gradient.
    """
    logprobs = logits.float().log_softmax(-1)
    of_target = logprobs.gather(1, targets.unsqueeze(1)).squeeze(1)
    loss = -of_target.sum() / counts.tokens
    if label_smoothing:
        uniform = -logprobs.mean(-1).sum() / counts.tokens
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return loss, of_target.detach()


def doubly_stochastic(attention: torch.Tensor, present: torch.Tensor, counts: Counts) -> torch.Tensor:
    """Xu et al. 2015, eq. 14: the mean over captions and cells of (1 - attention summed over a caption's tokens)^2.

    Args:
        attention: (B, K, T, cells).
        present: (B, K, T), whether there is a token.
        counts: of the whole step.
    """
    looked = (attention.float() * present.unsqueeze(-1)).sum(2)  # (B, K, cells)
    there = present.any(2)  # (B, K): an image may have fewer captions than K
    return (1 - looked).square().mean(-1)[there].sum() / counts.captions


def hard_attention(
    forced: TeacherForcingOutput,
    present: torch.Tensor,
    logprobs: torch.Tensor,
    baseline: float,
    weights: tuple[float, float],
    counts: Counts,
) -> torch.Tensor:
    """The part of Xu et al. 2015, eq. 12, that teaches where to look: REINFORCE on the sampled cells, and the entropy.

    Args:
        forced: of a decoder that samples its cells.
        present: (B, K, T), whether there is a token.
        logprobs: (N,), each token's log-probability: the reward is its sum over a caption, log p(y | s, a).
        baseline: moving average of the reward over earlier steps.
        weights: of REINFORCE, and of the attention's entropy, which is to stay large: lambda_r and lambda_e.
        counts: of the whole step.
    """
    attention = forced.attention.float().clamp(min=1e-8)
    sampled = present & (forced.sampled_cells >= 0)  # (B, K, T)
    chosen = attention.gather(-1, forced.sampled_cells.clamp(min=0).unsqueeze(-1)).squeeze(-1).log()
    reward = caption_sums(logprobs, present) - baseline  # (B, K)
    reinforce = (reward.unsqueeze(2) * chosen * sampled).sum()
    spread = (-(attention * attention.log()).sum(-1) * present).sum()
    return -(weights[0] * reinforce + weights[1] * spread) / counts.tokens


def caption_sums(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Values of tokens (N,) → their sums over each caption (B, K); `present` (B, K, T) says which tokens those are."""
    spread = values.new_zeros(present.shape)
    spread[present] = values
    return spread.sum(2)

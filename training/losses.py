"""Losses of cross-entropy and of self-critical training.

Letters for shapes: B images, K captions per image, S sampled captions per image, T tokens, N tokens without padding,
V vocabulary size.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from handler.modeling import TeacherForcingOutput
from handler.modeling.vocabulary import Vocabulary

Array = np.ndarray[Any, np.dtype[np.float64]]


class Normalizers(NamedTuple):
    """Divisors of the sums: counts of the whole step, over all processes."""

    tokens: float
    captions: float


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, counts: Normalizers, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute cross-entropy per token, in nats.

    Args:
        logits: (N, V).
        targets: (N,) token ids.
        counts: Counts of the whole step.
        label_smoothing: Share of the target probability spread evenly over the vocabulary, in [0, 1).

    Returns:
        The loss, and the log-probability of each target (N,), detached.
    """
    logprobs = logits.float().log_softmax(-1)
    target_logprobs = logprobs.gather(1, targets.unsqueeze(1)).squeeze(1)
    loss = -target_logprobs.sum() / counts.tokens
    if label_smoothing:
        uniform = -logprobs.mean(-1).sum() / counts.tokens
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return loss, target_logprobs.detach()


def doubly_stochastic(attention: torch.Tensor, mask: torch.Tensor, counts: Normalizers) -> torch.Tensor:
    """Compute the mean over captions and cells of (1 - attention summed over tokens)² (Xu et al. 2015, eq. 14).

    Args:
        attention: (B, K, T, cells).
        mask: (B, K, T), True at tokens, False at padding.
        counts: Counts of the whole step.
    """
    attention_sum = (attention.float() * mask.unsqueeze(-1)).sum(2)  # (B, K, cells)
    has_caption = mask.any(2)  # (B, K): an image may have fewer than K captions
    return (1 - attention_sum).square().mean(-1)[has_caption].sum() / counts.captions


def hard_attention(
    output: TeacherForcingOutput,
    mask: torch.Tensor,
    logprobs: torch.Tensor,
    baseline: float,
    weights: tuple[float, float],
    counts: Normalizers,
) -> torch.Tensor:
    """Compute the attention terms of Xu et al. 2015, eq. 12: REINFORCE on the sampled cells, and the entropy.

    Args:
        output: Output of a decoder with sampled attention.
        mask: (B, K, T), True at tokens, False at padding.
        logprobs: (N,) log-probability of each token. The reward is their sum over a caption, log p(y | s, a).
        baseline: Moving average of the reward over earlier steps.
        weights: Weights of REINFORCE and of the attention entropy, which is maximized: lambda_r and lambda_e.
        counts: Counts of the whole step.

    Raises:
        ValueError: If the decoder sampled no attention.
    """
    if output.attention is None or output.sampled_cells is None:
        raise ValueError("The decoder sampled no attention.")
    attention = output.attention.float().clamp(min=1e-8)
    sampled = mask & (output.sampled_cells >= 0)  # (B, K, T)
    sampled_logprobs = attention.gather(-1, output.sampled_cells.clamp(min=0).unsqueeze(-1)).squeeze(-1).log()
    reward = caption_sums(logprobs, mask) - baseline  # (B, K)
    reinforce = (reward.unsqueeze(2) * sampled_logprobs * sampled).sum()
    entropy = (-(attention * attention.log()).sum(-1) * mask).sum()
    return -(weights[0] * reinforce + weights[1] * entropy) / counts.tokens


def caption_sums(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum token values (N,) over each caption.

    Args:
        values: (N,) in the order of the True elements of `mask`.
        mask: (B, K, T), True at tokens.

    Returns:
        (B, K).
    """
    padded = values.new_zeros(mask.shape)
    padded[mask] = values
    return padded.sum(2)


def log_policy(logits: torch.Tensor, vocabulary: Vocabulary, temperature: float) -> torch.Tensor:
    """Convert logits (…, V) to log-probabilities of the policy, which never emits `<pad>`, `<start>` or `<unk>`."""
    banned = torch.tensor([vocabulary.pad_id, vocabulary.bos_id, vocabulary.unk_id], device=logits.device)
    return (logits.float() / temperature).index_fill(-1, banned, float("-inf")).log_softmax(-1)


def advantages(rewards: Array, greedy: Array | None) -> Array:
    """Subtract the baseline from the rewards of sampled captions.

    Args:
        rewards: (B, S).
        greedy: (B,) rewards of greedily decoded captions; None: the baseline is the mean of the other S - 1 samples.

    Returns:
        (B, S).
    """
    if greedy is not None:
        return rewards - greedy[:, None]
    samples = rewards.shape[1]
    result: Array = (rewards - rewards.mean(1, keepdims=True)) * (samples / (samples - 1))
    return result


def self_critical_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    advantage: torch.Tensor,
    mask: torch.Tensor,
    vocabulary: Vocabulary,
    *,
    temperature: float,
    tokens: float,
) -> torch.Tensor:
    """Compute REINFORCE per token (Rennie et al. 2017, eq. 8).

    Args:
        logits: (N, V) of the sampled captions.
        targets: (N,) sampled token ids.
        advantage: (B, S), see `advantages`.
        mask: (B, S, T), True at tokens, False at padding.
        vocabulary: Vocabulary of the decoder.
        temperature: Temperature of the sampling.
        tokens: Sampled tokens of the whole step, over all processes.
    """
    logprobs = log_policy(logits, vocabulary, temperature).gather(1, targets.unsqueeze(1)).squeeze(1)
    weight = advantage.unsqueeze(2).expand(mask.shape)[mask]
    return -(weight * logprobs).sum() / tokens

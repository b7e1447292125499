"""What training minimises."""

import torch
from torch.nn import functional


def caption_loss(
    logits: torch.Tensor,
    attention: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    pad: int,
    label_smoothing: float = 0.0,
    doubly_stochastic: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy a token, and with attention the doubly stochastic term of Xu et al. 2015, eq. 14.

    Args:
        logits: (B, K, T, V).
        attention: (B, K, T, cells) or None.
        targets: (B, K, T); `pad` counts for nothing.
        pad: the id of `<pad>`.
        label_smoothing: 0 to 1.
        doubly_stochastic: weight of the term, the mean over captions and cells of (1 - attention summed over tokens)^2.

    Returns:
        The sum of both, to be minimised, and the plain cross-entropy in nats a token, to be shown.
    """
    flat, wanted = logits.flatten(0, 2).float(), targets.flatten()
    logprobs = flat.log_softmax(-1)
    entropy = functional.nll_loss(logprobs, wanted, ignore_index=pad)
    loss = entropy
    if label_smoothing:
        uniform = -logprobs.mean(-1)[wanted != pad].mean()
        loss = (1 - label_smoothing) * entropy + label_smoothing * uniform
    if doubly_stochastic and attention is not None:
        said = (targets != pad).unsqueeze(-1)
        looked = (attention.float() * said).sum(2)  # (B, K, cells)
        present = said.any(2).squeeze(-1)  # (B, K): an image may have fewer captions than K
        loss = loss + doubly_stochastic * (1 - looked).square().mean(-1)[present].mean()
    return loss, entropy.detach()

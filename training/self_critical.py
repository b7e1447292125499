"""Self-critical training (Rennie et al. 2017): sampled captions are rewarded with CIDEr-D against a baseline."""

import numpy as np
import torch

from handler.modeling import Decoder
from handler.modeling.decoder import expand_state
from handler.modeling.vocabulary import Vocabulary


def policy(logits: torch.Tensor, vocabulary: Vocabulary, temperature: float) -> torch.Tensor:
    """Logits (…, V) → log-probabilities of what may be said: not `<pad>`, `<start>`, `<unk>`."""
    never = torch.tensor([vocabulary.pad_id, vocabulary.bos_id, vocabulary.unk_id], device=logits.device)
    return (logits.float() / temperature).index_fill(-1, never, float("-inf")).log_softmax(-1)


@torch.no_grad()
def sample_captions(
    decoder: Decoder,
    grid: torch.Tensor,
    vocabulary: Vocabulary,
    *,
    samples: int,
    temperature: float,
    max_words: int,
) -> list[list[list[int]]]:
    """Draws captions from the policy; temperature 0 takes the likeliest token always.

    Args:
        decoder: in evaluation mode, or its dropout makes another policy than the one that is trained.
        grid: (B, cells, C).
        vocabulary: the decoder's.
        samples: captions an image.
        temperature: what logits are divided by.
        max_words: a caption that is not over by then has no `<end>`.

    Returns:
        For each image its captions' ids, `<end>` last where it was drawn, the longest caption first.
    """
    memory, state = decoder.init_state(grid)
    state = expand_state(state, samples)
    last = torch.full((len(grid), samples), vocabulary.bos_id, device=grid.device)
    over = torch.zeros_like(last, dtype=torch.bool)
    columns = []
    for _ in range(max_words + 1):
        step = decoder.step(last, state, memory)
        state, memory = step.state, step.memory
        logprobs = policy(step.logits, vocabulary, temperature or 1.0)
        drawn = torch.multinomial(logprobs.exp().flatten(0, 1), 1).view_as(last) if temperature else logprobs.argmax(-1)
        last = drawn.masked_fill(over, vocabulary.pad_id)
        columns.append(last)
        over |= last == vocabulary.eos_id
        if over.all():
            break
    found = torch.stack(columns, 2).tolist()  # (B, S, T)
    captions = [[[i for i in ids if i != vocabulary.pad_id] for ids in some] for some in found]
    return [sorted(_cut(some, vocabulary, max_words), key=len, reverse=True) for some in captions]


def _cut(captions: list[list[int]], vocabulary: Vocabulary, max_words: int) -> list[list[int]]:
    """After `max_words` words there is nothing but `<end>`."""
    return [ids if ids[-1] == vocabulary.eos_id else ids[:max_words] for ids in captions]


def advantages(rewards: np.ndarray, greedy: np.ndarray | None) -> np.ndarray:
    """Rewards (B, S) of an image's samples, less their baseline.

    Args:
        rewards: of the samples.
        greedy: (B,), of the greedily decoded caption; None takes the mean of the image's other samples.
    """
    if greedy is not None:
        return rewards - greedy[:, None]
    samples = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdims=True)) * (samples / (samples - 1))


def self_critical_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    advantage: torch.Tensor,
    present: torch.Tensor,
    vocabulary: Vocabulary,
    *,
    temperature: float,
    tokens: float,
) -> torch.Tensor:
    """REINFORCE (Rennie et al. 2017, eq. 8), a token.

    Args:
        logits: (N, V), of the sampled captions.
        targets: (N,), what was sampled.
        advantage: (B, S), of each caption.
        present: (B, S, T), which places the N tokens have.
        vocabulary: the decoder's.
        temperature: that they were sampled with.
        tokens: sampled in the whole step, over all processes.
    """
    logprobs = policy(logits, vocabulary, temperature).gather(1, targets.unsqueeze(1)).squeeze(1)
    weight = advantage.unsqueeze(2).expand(present.shape)[present]
    return -(weight * logprobs).sum() / tokens

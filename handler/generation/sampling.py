"""Sampling: uniform noise from seeds, and nucleus sampling by inverting the cumulative distribution."""

from collections.abc import Sequence

import numpy as np
import torch

from handler.generation.options import GenerationConfig


def uniform_noise(configs: Sequence[GenerationConfig], num_beams: int, num_steps: int) -> torch.Tensor:
    """Return uniform noise from [0, 1) for each image, hypothesis and step, from the seed of the image.

    Args:
        configs: Options of each of B images.
        num_beams: K, at least the largest `num_captions` of the images that sample.
        num_steps: T, more than the largest `max_length` of the images that sample.

    Returns:
        (B, K, T); 0 for images that do not sample.
    """
    noise = torch.zeros(len(configs), num_beams, num_steps)
    for image, config in enumerate(configs):
        if config.do_sample:
            for caption in range(config.num_captions):
                seed_sequence = np.random.SeedSequence(config.seed, spawn_key=(caption,))
                values = np.random.default_rng(seed_sequence).random(config.max_length + 1, dtype=np.float32)
                noise[image, caption, : len(values)] = torch.from_numpy(values)
    return noise


def sample_tokens(
    logprobs: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Sample a token for each hypothesis: temperature, then nucleus sampling (Holtzman et al. 2020).

    Args:
        logprobs: (R, K, V), log-probabilities; -inf for tokens that are not allowed.
        temperature: (R,), > 0.
        top_p: (R,), probability of the nucleus, > 0 and ≤ 1; 1 keeps all tokens.
        noise: (R, K), uniform in [0, 1).

    Returns:
        (R, K), token ids.
    """
    top_p = top_p.view(-1, 1, 1)
    tempered = logprobs / temperature.view(-1, 1, 1)
    probabilities, tokens = tempered.softmax(-1).sort(dim=-1, descending=True, stable=True)  # (R, K, V)
    cumulative_before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill((cumulative_before >= top_p) & (top_p < 1), 0.0)
    cumulative = probabilities.cumsum(-1)
    threshold = noise.unsqueeze(-1) * cumulative[..., -1:]
    # Rounding can put the threshold past the last token of the nucleus; that token is meant then.
    last = (probabilities > 0).sum(-1) - 1
    index = torch.minimum((cumulative <= threshold).sum(-1), last).clamp(min=0)  # (R, K)
    return tokens.gather(-1, index.unsqueeze(-1)).squeeze(-1)

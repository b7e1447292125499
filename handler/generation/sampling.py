"""The mathematics of sampling: numbers from seeds, and the words that they draw."""

from collections.abc import Sequence

import numpy as np
import torch

from handler.generation.config import GenerationConfig


def draws(options: Sequence[GenerationConfig], width: int, steps: int) -> torch.Tensor:
    """Draws from [0, 1) for each image, hypothesis and step, from the image's own seed.

    Args:
        options: one an image, B of them.
        width: K, at least as many as captions are drawn of any image.
        steps: T, more than any drawn caption's `max_length`.

    Returns:
        (B, K, T); 0 where nothing is drawn.
    """
    numbers = torch.zeros(len(options), width, steps)
    for image, option in enumerate(options):
        if option.do_sample:
            for caption in range(option.num_captions):
                source = np.random.SeedSequence(option.seed, spawn_key=(caption,))
                drawn = np.random.default_rng(source).random(option.max_length + 1, dtype=np.float32)
                numbers[image, caption, : len(drawn)] = torch.from_numpy(drawn)
    return numbers


def sample_tokens(
    logprobs: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, uniform: torch.Tensor
) -> torch.Tensor:
    """The words that draws fall on: the inverse of the cumulated, tempered probability, within the nucleus.

    Args:
        logprobs: (R, K, V), of the tokens that may come next; -inf for the others.
        temperature: (R,), above 0.
        top_p: (R,), the nucleus' share of the probability, above 0 to 1.
        uniform: (R, K), in [0, 1).

    Returns:
        (R, K), each a place in V.
    """
    top_p = top_p.view(-1, 1, 1)
    tempered = logprobs / temperature.view(-1, 1, 1)
    shares, words = tempered.softmax(-1).sort(dim=-1, descending=True, stable=True)  # (R, K, V)
    below = shares.cumsum(-1) - shares  # the probability of all that are likelier
    shares = shares.masked_fill((below >= top_p) & (top_p < 1), 0.0)
    reached = shares.cumsum(-1)
    draw = uniform.unsqueeze(-1) * reached[..., -1:]
    # Rounding may put the draw beyond the last of them: the last word that has a share is meant.
    index = torch.minimum((reached <= draw).sum(-1), (shares > 0).sum(-1) - 1).clamp(min=0)  # (R, K)
    return words.gather(-1, index.unsqueeze(-1)).squeeze(-1)

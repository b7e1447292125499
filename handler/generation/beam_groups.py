"""Groups of beams for diverse beam search: Vijayakumar et al. 2018, https://arxiv.org/abs/1610.02424.

The beams of an image are divided into groups. At each step the groups choose their tokens one after the other. A group
prefers tokens that the groups before it did not choose at this step (Algorithm 1 with the Hamming diversity). The
penalties of a hypothesis add up and decide which beams stay live. Finished hypotheses are ranked by the
log-probabilities of the model alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from handler.generation.options import GenerationConfig


class BeamGroup(NamedTuple):
    """A group of beams: all beams of an image, or a part of them.

    Attributes:
        image: Index of the image.
        position: Its position among the groups of the image, which is the order in which they choose.
    """

    image: int
    position: int


def beam_groups(configs: Sequence[GenerationConfig]) -> list[BeamGroup]:
    """Return the groups of all images: the first ones of all images, the second ones, and so on."""
    last = max(config.num_beam_groups for config in configs)
    return [
        BeamGroup(image, position)
        for position in range(last)
        for image, config in enumerate(configs)
        if position < config.num_beam_groups
    ]


def images_searched_together(configs: Sequence[GenerationConfig]) -> list[list[int]]:
    """Return the images that share the tensors of a search: those with one group, and those with groups of one size.

    The groups of a search have as many beams as its largest one. Images with many small groups would be padded to many
    large ones.
    """
    together: dict[int, list[int]] = {}
    for image, config in enumerate(configs):
        together.setdefault(config.beams_per_group if config.num_beam_groups > 1 else 0, []).append(image)
    return list(together.values())


class DiversityPenalties:
    """Penalty of each token in one step, from the tokens that the earlier groups of an image chose.

    Args:
        images: (G,), the image of each group.
        strengths: (G, 1), the `diversity_penalty` of each group.
        num_images: Number of images of the search.
        vocabulary_size: V.
    """

    def __init__(self, images: torch.Tensor, strengths: torch.Tensor, num_images: int, vocabulary_size: int) -> None:
        self.images, self.strengths = images, strengths
        self.penalties = strengths.new_zeros(num_images, vocabulary_size)

    def penalize(self, rows: slice, logprobs: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities (R, K, V) of some groups, less the penalties of their images."""
        return logprobs - self.penalties[self.images[rows]].unsqueeze(1)

    def of(self, rows: slice, tokens: torch.Tensor) -> torch.Tensor:
        """Return the penalty of tokens (R, N) of some groups."""
        return self.penalties[self.images[rows]].gather(1, tokens)

    def add(self, rows: slice, tokens: torch.Tensor, chosen: torch.Tensor) -> None:
        """Count tokens (R, K) of some groups, where `chosen` (R, K)."""
        images = self.images[rows].unsqueeze(1).expand_as(tokens)
        self.penalties.index_put_((images, tokens), self.strengths[rows] * chosen, accumulate=True)

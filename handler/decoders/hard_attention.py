"""Show, Attend and Tell (Xu et al. 2015), stochastic "hard" attention: in training each step looks at one cell."""

import torch
from torch.nn import functional

from handler.decoders.base import Tensors
from handler.decoders.soft_attention import SoftAttention

EXPECTED = 0.5  # share of training's steps in which the expected context stands in for the sampled one


class HardAttention(SoftAttention):
    """The paper's section 3.1.1 and 4.1; the variational bound's gradient is training's, see `training.loss`.

    In training a cell is sampled from the attention, or with probability 0.5 the expected context is taken, which
    lowers the variance as in 4.1. In decoding the expected context is taken always, as in the authors' code: a caption
    does not depend on chance.
    """

    def look(self, attention: torch.Tensor) -> tuple[torch.Tensor, Tensors]:
        if not self.training:
            return attention, {}
        location = torch.multinomial(attention.detach().float().flatten(0, 1), 1).view(attention.shape[:2])  # (B, K)
        one_hot = functional.one_hot(location, attention.shape[-1]).to(attention.dtype)
        expected = torch.rand(location.shape, device=location.device) < EXPECTED
        weights = torch.where(expected.unsqueeze(-1), attention, one_hot)
        return weights, {"location": location.masked_fill(expected, -1)}

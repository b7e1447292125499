"""Show, Attend and Tell (Xu et al. 2015), stochastic "hard" attention: in training each step looks at one cell."""

import torch
from torch.nn import functional

from handler.modeling.decoder import Tensors
from handler.modeling.soft_attention import SoftAttention

EXPECTED = 0.5  # share of training's images for which the expected context stands in for the sampled one


class HardAttention(SoftAttention):
    """The paper's section 3.1.1 and 4.1; the variational bound's gradient is training's, see `training.losses`.

    In training a cell is sampled from the attention at each step; for an image in two the expected context is taken
    instead, which lowers the variance (4.1). In decoding the expected context is taken always, as in the authors' code:
    a caption does not depend on chance.
    """

    def init_state(self, grid: torch.Tensor) -> tuple[Tensors, Tensors]:
        memory, state = super().init_state(grid)
        if self.training:
            state["expected"] = torch.rand(len(grid), 1, device=grid.device) < EXPECTED
        return memory, state

    def look(self, attention: torch.Tensor, state: Tensors) -> tuple[torch.Tensor, Tensors]:
        if not self.training:
            return attention, {}
        expected = state["expected"]  # (B, K)
        location = torch.multinomial(attention.detach().float().flatten(0, 1), 1).view(attention.shape[:2])  # (B, K)
        one_hot = functional.one_hot(location, attention.shape[-1]).to(attention.dtype)
        weights = torch.where(expected.unsqueeze(-1), attention, one_hot)
        return weights, {"expected": expected, "location": location.masked_fill(expected, -1)}

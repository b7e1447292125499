"""Show, Attend and Tell (Xu et al. 2015), stochastic "hard" attention: each training step attends to one cell."""

from dataclasses import dataclass, field

import torch
from torch.nn import functional

from handler.modeling.decoder import Memory, State
from handler.modeling.soft_attention import SoftAttention, SoftAttentionConfig

SOFT_CONTEXT_PROB = 0.5  # share of training images that use the expected context instead of a sampled one


@dataclass(frozen=True)
class HardAttentionConfig(SoftAttentionConfig):
    """Config of `HardAttention`."""

    name: str = field(default="hard_attention", init=False)


class HardAttention(SoftAttention):
    """Sections 3.1.1 and 4.1 of the paper; the gradient of the variational bound is in `training.losses`.

    In training, each step samples a cell from the attention. Half of the images use the expected context instead, which
    lowers the variance (4.1). Decoding always uses the expected context, as the authors' code does: a caption does not
    depend on chance.
    """

    config_class = HardAttentionConfig

    def init_state(self, grid: torch.Tensor) -> tuple[Memory, State]:
        """Extend the initial state, in training, by which images use the expected context."""
        memory, state = super().init_state(grid)
        if self.training:
            state["soft_context"] = torch.rand(len(grid), 1, device=grid.device) < SOFT_CONTEXT_PROB
        return memory, state

    def context_weights(self, attention: torch.Tensor, state: State) -> tuple[torch.Tensor, torch.Tensor | None]:
        """In training, sample a cell; see `SoftAttention.context_weights`."""
        if not self.training:
            return attention, None
        soft_context = state["soft_context"]  # (B, K)
        cells = torch.multinomial(attention.detach().float().flatten(0, 1), 1).view(attention.shape[:2])  # (B, K)
        one_hot = functional.one_hot(cells, attention.shape[-1]).to(attention.dtype)
        weights = torch.where(soft_context.unsqueeze(-1), attention, one_hot)
        return weights, cells.masked_fill(soft_context, -1)

"""Decoder interface: initial state from a grid, one step for all hypotheses of a batch, teacher forcing.

Letters for shapes: B images, K hypotheses per image (beams, or the captions of an image in training), T tokens, N
tokens of all captions without padding, V vocabulary, C channels of a cell, E embedding, H hidden state, A attention.
"""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from handler.modeling.vocabulary import PAD_ID

TensorDict = dict[str, torch.Tensor]
Memory = TensorDict  # each (B, …): one row per image, shared by its hypotheses, e.g. encoded cells, a KV cache
State = TensorDict  # each (B, K, …): one row per hypothesis, reordered by search


@dataclass(frozen=True)
class DecoderConfig:
    """Architecture and sizes of a decoder; each architecture has a subclass with its own fields.

    Attributes:
        name: Architecture, a key of `handler.modeling.DECODERS`; fixed by the subclass.
        embed_dim: Size of a token embedding, ≥ 1.
        dropout: Rate on embeddings and before the output layer, in training only; from 0 to below 1.
        tie_embeddings: Use the token embeddings as the weights of the output layer.

    Raises:
        ValueError: If a value has the wrong type or is out of range.
    """

    name: str = field(default="", init=False)
    embed_dim: int = 512
    dropout: float = 0.5
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, low = getattr(self, item.name), item.metadata.get("min", 1)
            if item.type is int and (not isinstance(value, int) or isinstance(value, bool) or value < low):
                raise ValueError(f"{item.name} must be an integer of at least {low}, not {value!r}.")
            if item.type is bool and not isinstance(value, bool):
                raise ValueError(f"{item.name} must be true or false, not {value!r}.")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a number from 0 to below 1, not {self.dropout!r}.")


class StepFeatures(NamedTuple):
    """Result of one step before the output layer."""

    features: torch.Tensor  # (B, K, E)
    state: State  # of the next step
    memory: Memory  # of the next step
    attention: torch.Tensor | None = None  # (B, K, cells), sums to 1 over the cells
    sampled_cells: torch.Tensor | None = None  # (B, K), hard attention in training: the sampled cell, -1 if none


class StepOutput(NamedTuple):
    """Result of one step."""

    logits: torch.Tensor  # (B, K, V), unnormalized
    state: State  # of the next step
    memory: Memory  # of the next step
    attention: torch.Tensor | None = None  # as in `StepFeatures`
    sampled_cells: torch.Tensor | None = None  # as in `StepFeatures`


class TeacherForcingOutput(NamedTuple):
    """Result of teacher forcing."""

    logits: torch.Tensor  # (N, V), unnormalized, of the tokens that are not padding, in their order
    attention: torch.Tensor | None = None  # (B, K, T, cells), sums to 1 over the cells; 0 at padding
    sampled_cells: torch.Tensor | None = None  # (B, K, T), hard attention in training: the sampled cell, -1 if none


class Decoder(nn.Module, ABC):
    """Autoregressive decoder: feature grid → tokens, one per step.

    A decoder keeps two dicts of tensors. The *memory* holds what belongs to an image, (B, …), and is shared by the
    hypotheses of that image. The *state* holds what belongs to a hypothesis, (B, K, …). A step mutates neither of them:
    it returns both for the next step. Search reorders the state and drops images from both without knowing the
    architecture.

    Args:
        vocabulary_size: Number of tokens V, special ones included.

    Attributes:
        config_class: Config of the architecture.
        has_attention: True if steps return attention over the grid.
        uses_mean_cell: True if only the mean of the cells matters, so that a grid may be one cell with that mean.
    """

    config_class: ClassVar[type[DecoderConfig]]
    has_attention: ClassVar[bool] = True
    uses_mean_cell: ClassVar[bool] = False

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size

    @abstractmethod
    def init_state(self, grid: torch.Tensor) -> tuple[Memory, State]:
        """Compute memory and state before the first token.

        Args:
            grid: (B, cells, C).

        Returns:
            The memory, each (B, …), and the state, each (B, 1, …).
        """

    @abstractmethod
    def step_features(self, tokens: torch.Tensor, state: State, memory: Memory) -> StepFeatures:
        """Feed one token to each hypothesis.

        Args:
            tokens: (B, K), the token before the one to predict.
            state: Each (B, K, …); not changed.
            memory: Each (B, …); not changed.
        """

    @abstractmethod
    def lm_head(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (…, E) to logits (…, V)."""

    def step(self, tokens: torch.Tensor, state: State, memory: Memory) -> StepOutput:
        """Run one decoding step; arguments as for `step_features`."""
        features, state, memory, attention, sampled_cells = self.step_features(tokens, state, memory)
        return StepOutput(self.lm_head(features), state, memory, attention, sampled_cells)

    def forward(self, grid: torch.Tensor, tokens: torch.Tensor) -> TeacherForcingOutput:
        """Teacher forcing: predict each next token from the true ones before it.

        Args:
            grid: (B, cells, C).
            tokens: (B, K, T), the tokens of the captions from `<start>` on, then `<pad>`. Order the captions of an
                image longest first: finished ones at the end are skipped.
        """
        memory, state = self.init_state(grid)
        state = expand_state(state, tokens.shape[1])
        mask = tokens != PAD_ID
        features, attention, sampled_cells = [], [], []
        for column, num_active in zip(tokens.unbind(2), num_active_per_step(mask), strict=True):
            state = {name: tensor[:, :num_active] for name, tensor in state.items()}
            step = self.step_features(column[:, :num_active], state, memory)
            state, memory = step.state, step.memory
            features.append(_pad_hypotheses(step.features, tokens.shape[1], 0))
            if step.attention is not None:
                attention.append(_pad_hypotheses(step.attention, tokens.shape[1], 0))
            if step.sampled_cells is not None:
                sampled_cells.append(_pad_hypotheses(step.sampled_cells, tokens.shape[1], -1))
        logits = self.lm_head(torch.stack(features, 2)[mask])  # one large product instead of T small ones
        return TeacherForcingOutput(
            logits,
            torch.stack(attention, 2) * mask.unsqueeze(-1) if attention else None,
            torch.stack(sampled_cells, 2) if sampled_cells else None,
        )


def num_active_per_step(mask: torch.Tensor) -> list[int]:
    """For each of T steps, count the leading hypotheses in which some image still has a token; mask (B, K, T)."""
    has_token = mask.any(0).cpu()  # (K, T)
    counts = torch.arange(1, len(has_token) + 1).unsqueeze(1)
    active: list[int] = (has_token * counts).amax(0).clamp(min=1).tolist()
    return active


def _pad_hypotheses(tensor: torch.Tensor, hypotheses: int, value: float) -> torch.Tensor:
    """Pad (B, num_active, …) to (B, hypotheses, …)."""
    missing = hypotheses - tensor.shape[1]
    return functional.pad(tensor, [0, 0] * (tensor.ndim - 2) + [0, missing], value=value) if missing else tensor


def expand_state(state: State, hypotheses: int) -> State:
    """Expand a state (B, 1, …) to (B, hypotheses, …), all equal."""
    return {name: tensor.expand(-1, hypotheses, *tensor.shape[2:]) for name, tensor in state.items()}


def gather_beams(tensor: torch.Tensor, beams: torch.Tensor) -> torch.Tensor:
    """Reorder beams: tensor (B, K, …), beams (B, N) → (B, N, …)."""
    index = beams.view(*beams.shape, *[1] * (tensor.ndim - 2)).expand(-1, -1, *tensor.shape[2:])
    return tensor.gather(1, index)

"""What every decoder offers: a start from the grid, one step for all hypotheses of a whole batch, its weights.

Letters for shapes: B images, K hypotheses an image (beams, or an image's captions in training), T tokens,
V vocabulary, C channels of a cell, E embedding, H hidden state.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class DecoderConfig:
    """Architecture and sizes of a decoder; a decoder ignores the sizes it has no use for."""

    name: str = "soft_attention"
    embed_size: int = 512  # of a word's vector
    hidden_size: int = 512  # of the LSTM's state
    attention_size: int = 512  # of the layer that compares a cell with the state
    dropout: float = 0.5  # on word vectors and before the words' scores; in training alone
    tie_embeddings: bool = False  # words' scores use the word vectors themselves

    def __post_init__(self):
        for name in ("embed_size", "hidden_size", "attention_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is from 0 to below 1, not {self.dropout}.")


class Step(NamedTuple):
    """What one step gives."""

    logits: torch.Tensor  # (B, K, V), not normalised
    state: Tensors  # each (B, K, …)
    attention: torch.Tensor | None  # (B, K, cells), sums to 1 over the cells


class Decoder(nn.Module, ABC):
    """Turns a grid into words, one token a step.

    What belongs to an image and never changes is its *memory*, tensors (B, …) shared by the image's hypotheses.
    What belongs to a hypothesis is its *state*, tensors (B, K, …). Both are plain dicts, so that search can reorder,
    repeat and drop them without knowing any architecture.
    """

    def __init__(self, vocabulary_size: int):
        super().__init__()
        self.vocabulary_size = vocabulary_size

    @abstractmethod
    def start(self, grid: torch.Tensor) -> tuple[Tensors, Tensors]:
        """Grid (B, cells, C) → memory (B, …) and the state (B, 1, …) before the first token."""

    @abstractmethod
    def advance(
        self, tokens: torch.Tensor, state: Tensors, memory: Tensors
    ) -> tuple[torch.Tensor, Tensors, torch.Tensor | None]:
        """Feeds one token to each hypothesis.

        Args:
            tokens: (B, K), the token before the one to predict.
            state: each (B, K, …).
            memory: each (B, …).

        Returns:
            Features (B, K, E) for `readout`, the next state, and the attention (B, K, cells) or None.
        """

    @abstractmethod
    def readout(self, features: torch.Tensor) -> torch.Tensor:
        """Features (…, E) → logits (…, V)."""

    def step(self, tokens: torch.Tensor, state: Tensors, memory: Tensors) -> Step:
        """One step of decoding; arguments as for `advance`."""
        features, state, attention = self.advance(tokens, state, memory)
        return Step(self.readout(features), state, attention)

    def forward(self, grid: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Teacher forcing: the logits of each next token, given the true ones before it.

        Args:
            grid: (B, cells, C).
            tokens: (B, K, T), the captions' tokens from `<start>` on.

        Returns:
            Logits (B, K, T, V), and the attention (B, K, T, cells) or None.
        """
        memory, state = self.start(grid)
        state = repeat_state(state, tokens.shape[1])
        features, attentions = [], []
        for column in tokens.unbind(2):
            feature, state, attention = self.advance(column, state, memory)
            features.append(feature)
            attentions.append(attention)
        logits = self.readout(torch.stack(features, 2))  # one large product instead of T small ones
        return logits, None if attentions[0] is None else torch.stack(attentions, 2)


def repeat_state(state: Tensors, hypotheses: int) -> Tensors:
    """State (B, 1, …) → (B, hypotheses, …), all alike."""
    return {name: tensor.expand(-1, hypotheses, *tensor.shape[2:]) for name, tensor in state.items()}


class Words(nn.Module):
    """Word vectors in, words' scores out: the two ends that all recurrent decoders share."""

    def __init__(self, config: DecoderConfig, vocabulary_size: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, config.embed_size)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if not config.tie_embeddings:
            self.output = nn.Parameter(torch.empty(vocabulary_size, config.embed_size).uniform_(-0.1, 0.1))
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.tied = config.tie_embeddings
        self.dropout = nn.Dropout(config.dropout)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (…) → vectors (…, E)."""
        return self.dropout(self.embedding(tokens))

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """Features (…, E) → logits (…, V)."""
        weight = self.embedding.weight if self.tied else self.output
        return functional.linear(self.dropout(features), weight, self.bias)


class Recurrence(nn.LSTMCell):
    """An LSTM cell over hypotheses: (B, K, input) with the state (B, K, H) twice → the next state."""

    def forward(self, inputs: torch.Tensor, state: Tensors) -> Tensors:
        shape = inputs.shape[:2]
        hidden, cell = super().forward(
            inputs.flatten(0, 1), (state["hidden"].flatten(0, 1), state["cell"].flatten(0, 1))
        )
        return {"hidden": hidden.unflatten(0, shape), "cell": cell.unflatten(0, shape)}

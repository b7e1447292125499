"""What every decoder offers: a start from the grid, one step for all hypotheses of a whole batch, its weights.

Letters for shapes: B images, K hypotheses an image (beams, or an image's captions in training), T tokens, N tokens of
all captions that are no padding, V vocabulary, C channels of a cell, E embedding, H hidden state.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from handler.modeling.vocabulary import PAD_ID

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class DecoderConfig:
    """Architecture and sizes of a decoder; a decoder ignores the sizes it has no use for."""

    name: str = "soft_attention"
    embed_size: int = 512  # of a word's vector; of all vectors in a Transformer
    hidden_size: int = 512  # of the LSTM's state; of a Transformer's feed-forward layer
    attention_size: int = 512  # of the layer that compares a cell with the state
    layers: int = 3  # of a Transformer's decoder
    grid_layers: int = 0  # of self-attention over the cells, before a Transformer's decoder
    heads: int = 8  # of a Transformer's attention
    dropout: float = 0.5  # on word vectors and before the words' scores; in training alone
    tie_embeddings: bool = False  # words' scores use the word vectors themselves

    def __post_init__(self):
        for name in ("embed_size", "hidden_size", "attention_size", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}.")
        if self.grid_layers < 0:
            raise ValueError(f"grid_layers is at least 0, not {self.grid_layers}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is from 0 to below 1, not {self.dropout}.")


class StepOutput(NamedTuple):
    """What one step gives."""

    logits: torch.Tensor  # (B, K, V), not normalised
    state: Tensors  # each (B, K, …)
    attention: torch.Tensor | None  # (B, K, cells), sums to 1 over the cells


class TeacherForcingOutput(NamedTuple):
    """What teacher forcing gives."""

    logits: torch.Tensor  # (N, V), not normalised, of the tokens that are no padding, in their order
    attention: torch.Tensor | None  # (B, K, T, cells), sums to 1 over the cells; 0 at padding
    location: torch.Tensor | None = None  # (B, K, T), hard attention's sampled cell; -1 where none was sampled


class Decoder(nn.Module, ABC):
    """Turns a grid into words, one token a step.

    What belongs to an image is its *memory*, tensors (B, …) shared by the image's hypotheses; a step may add to it.
    What belongs to a hypothesis is its *state*, tensors (B, K, …), which search reorders. Both are plain dicts, so that
    search can reorder, repeat and drop them without knowing any architecture.

    Attributes:
        has_attention: whether its steps give attention.
    """

    has_attention = True

    def __init__(self, vocabulary_size: int):
        super().__init__()
        self.vocabulary_size = vocabulary_size

    @abstractmethod
    def init_state(self, grid: torch.Tensor) -> tuple[Tensors, Tensors]:
        """Grid (B, cells, C) → memory (B, …) and the state (B, 1, …) before the first token."""

    @abstractmethod
    def step_features(
        self, tokens: torch.Tensor, state: Tensors, memory: Tensors
    ) -> tuple[torch.Tensor, Tensors, torch.Tensor | None]:
        """Feeds one token to each hypothesis.

        Args:
            tokens: (B, K), the token before the one to predict.
            state: each (B, K, …).
            memory: each (B, …); a decoder whose memory grows puts the new tensors into this dict.

        Returns:
            Features (B, K, E) for `lm_head`, the next state, and the attention (B, K, cells) or None.
        """

    @abstractmethod
    def lm_head(self, features: torch.Tensor) -> torch.Tensor:
        """Features (…, E) → logits (…, V)."""

    def step(self, tokens: torch.Tensor, state: Tensors, memory: Tensors) -> StepOutput:
        """One step of decoding; arguments as for `step_features`."""
        features, state, attention = self.step_features(tokens, state, memory)
        return StepOutput(self.lm_head(features), state, attention)

    def forward(self, grid: torch.Tensor, tokens: torch.Tensor) -> TeacherForcingOutput:
        """Teacher forcing: the logits of each next token, given the true ones before it.

        Args:
            grid: (B, cells, C).
            tokens: (B, K, T), the captions' tokens from `<start>` on, then `<pad>`.
        """
        memory, state = self.init_state(grid)
        state = repeat_state(state, tokens.shape[1])
        present = tokens != PAD_ID
        features, attentions, locations = [], [], []
        for column, live in zip(tokens.unbind(2), hypotheses_left(present), strict=True):
            # Captions that are over fall away: those of an image should come longest first.
            state = {name: tensor[:, :live] for name, tensor in state.items()}
            feature, state, attention = self.step_features(column[:, :live], state, memory)
            features.append(_fill(feature, tokens.shape[1], 0))
            if attention is not None:
                attentions.append(_fill(attention, tokens.shape[1], 0))
            if "location" in state:
                locations.append(_fill(state["location"], tokens.shape[1], -1))
        logits = self.lm_head(torch.stack(features, 2)[present])  # one large product instead of T small ones
        attention = torch.stack(attentions, 2) * present.unsqueeze(-1) if attentions else None
        return TeacherForcingOutput(logits, attention, torch.stack(locations, 2) if locations else None)


def hypotheses_left(present: torch.Tensor) -> list[int]:
    """For each of T steps the number of leading hypotheses in which some image still has a token; of (B, K, T)."""
    somewhere = present.any(0).cpu()  # (K, T)
    places = torch.arange(1, len(somewhere) + 1).unsqueeze(1)
    return (somewhere * places).amax(0).clamp(min=1).tolist()


def _fill(tensor: torch.Tensor, hypotheses: int, value: float) -> torch.Tensor:
    """Tensor (B, live, …) → (B, hypotheses, …)."""
    missing = hypotheses - tensor.shape[1]
    return functional.pad(tensor, [0, 0] * (tensor.ndim - 2) + [0, missing], value=value) if missing else tensor


def repeat_state(state: Tensors, hypotheses: int) -> Tensors:
    """State (B, 1, …) → (B, hypotheses, …), all alike."""
    return {name: tensor.expand(-1, hypotheses, *tensor.shape[2:]) for name, tensor in state.items()}


class Dropout(nn.Module):
    """Dropout that draws a byte an element: on a CPU five times as fast as a draw from Bernoulli's distribution.

    The rate is rounded to 1/256.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.dropped = min(round(rate * 256), 255)  # of 256 bytes

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.dropped:
            return tensor
        words = torch.empty(-(-tensor.numel() // 8), dtype=torch.long, device=tensor.device)
        noise = words.random_(-(2**63), 2**63 - 1).view(torch.uint8)[: tensor.numel()].view(tensor.shape)
        return tensor * ((noise >= self.dropped).to(tensor.dtype) * (256 / (256 - self.dropped)))


class Words(nn.Module):
    """Word vectors in, words' scores out: the two ends that all decoders share."""

    def __init__(self, config: DecoderConfig, vocabulary_size: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, config.embed_size)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if not config.tie_embeddings:
            self.output = nn.Parameter(torch.empty(vocabulary_size, config.embed_size).uniform_(-0.1, 0.1))
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.tied = config.tie_embeddings
        self.dropout = Dropout(config.dropout)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (…) → vectors (…, E)."""
        return self.dropout(self.embedding(tokens))

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """Features (…, E) → logits (…, V)."""
        weight = self.embedding.weight if self.tied else self.output
        return functional.linear(self.dropout(features), weight, self.bias)


class BeamLSTMCell(nn.LSTMCell):
    """An LSTM cell over hypotheses: (B, K, input) with the state's two tensors (B, K, H) → the next two."""

    def forward(
        self, inputs: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = inputs.shape[:2]
        hidden, cell = super().forward(inputs.flatten(0, 1), (hidden.flatten(0, 1), cell.flatten(0, 1)))
        return hidden.unflatten(0, shape), cell.unflatten(0, shape)


class AdditiveAttention(nn.Module):
    """Compares a state with every cell through one hidden layer (Bahdanau et al. 2015; Xu et al. 2015, eq. 4–5)."""

    def __init__(self, channels: int, hidden: int, size: int):
        super().__init__()
        self.key = nn.Linear(channels, size)
        self.query = nn.Linear(hidden, size, bias=False)
        self.compare = nn.Linear(size, 1, bias=False)

    def forward(self, hidden: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Hidden state (B, K, H) and `key` of the grid (B, cells, A) → weights (B, K, cells) that sum to 1."""
        mixed = (keys.unsqueeze(1) + self.query(hidden).unsqueeze(2)).tanh_()  # (B, K, cells, A)
        return self.compare(mixed).squeeze(-1).softmax(-1)

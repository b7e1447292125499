"""Show, Attend and Tell (Xu et al. 2015), deterministic "soft" attention, with the gated context."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from handler.modeling.decoder import Decoder, DecoderConfig, Memory, State, StepFeatures
from handler.modeling.layers import AdditiveAttention, BeamLSTMCell, TokenEmbedding


@dataclass(frozen=True)
class SoftAttentionConfig(DecoderConfig):
    """Config of `SoftAttention`.

    Attributes:
        hidden_dim: Size of the LSTM state H, ≥ 1.
        attention_dim: Size of the hidden layer of the attention A, ≥ 1.
        vector_gate: Gate each channel of the context by itself, instead of all by one scalar as in the paper (4.2.1).
            Bundles without this field have it.
    """

    name: str = field(default="soft_attention", init=False)
    hidden_dim: int = 512
    attention_dim: int = 512
    vector_gate: bool = False


class SoftAttention(Decoder):
    """Section 3.1.2 of the paper with 4.2; the doubly stochastic term of 4.2.1 is in `training.losses`.

    Each step attends to the cells with the hidden state as the query and gates their weighted mean. The LSTM input is
    this context beside the last token. The output layer reads token, state and context (eq. 7), through a tanh as in
    the authors' code.
    """

    config_class: ClassVar[type[SoftAttentionConfig]] = SoftAttentionConfig

    def __init__(self, config: SoftAttentionConfig, vocabulary_size: int, channels: int) -> None:
        super().__init__(vocabulary_size)
        embed_dim, hidden_dim = config.embed_dim, config.hidden_dim
        self.embedding = TokenEmbedding(vocabulary_size, embed_dim, config.dropout, tied=config.tie_embeddings)
        self.initial_hidden = nn.Linear(channels, hidden_dim)
        self.initial_cell = nn.Linear(channels, hidden_dim)
        self.attention = AdditiveAttention(channels, hidden_dim, config.attention_dim)
        self.gate = nn.Linear(hidden_dim, channels if config.vector_gate else 1)
        self.lstm = BeamLSTMCell(embed_dim + channels, hidden_dim)
        self.output_hidden = nn.Linear(hidden_dim, embed_dim)
        self.output_context = nn.Linear(channels, embed_dim, bias=False)

    def init_state(self, grid: torch.Tensor) -> tuple[Memory, State]:
        """Compute the initial LSTM state from the mean cell, and the attention keys."""
        mean = grid.mean(1, keepdim=True)  # (B, 1, C)
        state = {
            "hidden": torch.tanh(self.initial_hidden(mean)),  # (B, 1, H)
            "cell": torch.tanh(self.initial_cell(mean)),
        }
        keys = self.attention.key_proj(grid)  # (B, cells, A)
        return {"grid": grid.to(keys.dtype), "keys": keys}, state  # under autocast, cast once and not at every step

    def step_features(self, tokens: torch.Tensor, state: State, memory: Memory) -> StepFeatures:
        """Attend to the cells, then run one step of the LSTM."""
        attention = self.attention(state["hidden"], memory["keys"])  # (B, K, cells)
        weights, sampled_cells = self.context_weights(attention, state)
        context = torch.matmul(weights.to(memory["grid"].dtype), memory["grid"])  # (B, K, C), eq. 13
        context = torch.sigmoid(self.gate(state["hidden"])) * context  # 4.2.1: beta, (B, K, 1)
        token = self.embedding.embed(tokens)  # (B, K, E)
        hidden, cell = self.lstm(torch.cat([token, context], -1), state["hidden"], state["cell"])
        features = torch.tanh(token + self.output_hidden(hidden) + self.output_context(context))  # eq. 7
        return StepFeatures(features, state | {"hidden": hidden, "cell": cell}, memory, attention, sampled_cells)

    def context_weights(self, attention: torch.Tensor, state: State) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Turn attention (B, K, cells) into weights of the cells in the context, and sampled cells (B, K) if any."""
        del state  # `HardAttention` reads it
        return attention, None

    def lm_head(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (…, E) to logits (…, V)."""
        return self.embedding.logits(features)

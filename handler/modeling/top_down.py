"""Top-down attention (Anderson et al. 2018, section 3.2): an attention LSTM and a language LSTM, over the grid."""

from dataclasses import dataclass, field

import torch
from torch import nn

from handler.modeling.decoder import Decoder, DecoderConfig, Memory, State, StepFeatures
from handler.modeling.layers import AdditiveAttention, BeamLSTMCell, Dropout, TokenEmbedding


@dataclass(frozen=True)
class TopDownConfig(DecoderConfig):
    """Config of `TopDown`.

    Attributes:
        hidden_dim: Size of both LSTM states H, ≥ 1.
        attention_dim: Size of the hidden layer of the attention A, ≥ 1.
    """

    name: str = field(default="top_down", init=False)
    hidden_dim: int = 512
    attention_dim: int = 512


class TopDown(Decoder):
    """The captioning model of the paper, with grid cells instead of detected regions.

    A linear layer with ReLU and dropout maps the cells to the size of the hidden state first, as users of the model do
    since self-critical training (Rennie et al. 2017). Both LSTMs start from zero.
    """

    config_class = TopDownConfig

    def __init__(self, config: TopDownConfig, vocabulary_size: int, channels: int) -> None:
        super().__init__(vocabulary_size)
        embed_dim, hidden_dim = config.embed_dim, config.hidden_dim
        self.embedding = TokenEmbedding(vocabulary_size, embed_dim, config.dropout, tied=config.tie_embeddings)
        self.input_proj = nn.Sequential(nn.Linear(channels, hidden_dim), nn.ReLU(), Dropout(config.dropout))
        self.attention = AdditiveAttention(hidden_dim, hidden_dim, config.attention_dim)
        self.attention_lstm = BeamLSTMCell(hidden_dim + hidden_dim + embed_dim, hidden_dim)
        self.language_lstm = BeamLSTMCell(hidden_dim + hidden_dim, hidden_dim)
        self.output_proj = nn.Identity() if hidden_dim == embed_dim else nn.Linear(hidden_dim, embed_dim)

    def init_state(self, grid: torch.Tensor) -> tuple[Memory, State]:
        """Project the cells and compute the attention keys."""
        cells = self.input_proj(grid)  # (B, cells, H)
        memory = {"cells": cells, "keys": self.attention.key_proj(cells), "mean": cells.mean(1)}
        zero = cells.new_zeros(len(grid), 1, cells.shape[-1])
        return memory, dict.fromkeys(("attention_h", "attention_c", "language_h", "language_c"), zero)

    def step_features(self, tokens: torch.Tensor, state: State, memory: Memory) -> StepFeatures:
        """Run one step of both LSTMs."""
        mean = memory["mean"].unsqueeze(1).expand_as(state["language_h"])
        attention_input = torch.cat([state["language_h"], mean, self.embedding.embed(tokens)], -1)  # eq. 2
        attention_h, attention_c = self.attention_lstm(attention_input, state["attention_h"], state["attention_c"])
        attention = self.attention(attention_h, memory["keys"])  # (B, K, cells), eq. 3–4
        context = torch.matmul(attention.to(memory["cells"].dtype), memory["cells"])  # (B, K, H), eq. 5
        language_input = torch.cat([context, attention_h], -1)  # eq. 6
        language_h, language_c = self.language_lstm(language_input, state["language_h"], state["language_c"])
        state = {
            "attention_h": attention_h,
            "attention_c": attention_c,
            "language_h": language_h,
            "language_c": language_c,
        }
        return StepFeatures(self.output_proj(language_h), state, memory, attention)

    def lm_head(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (…, E) to logits (…, V)."""
        return self.embedding.logits(features)  # eq. 7

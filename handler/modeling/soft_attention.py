"""Show, Attend and Tell (Xu et al. 2015), deterministic "soft" attention, with the gated context."""

import torch
from torch import nn

from handler.modeling.decoder import AdditiveAttention, BeamLSTMCell, Decoder, DecoderConfig, Tensors, Words


class SoftAttention(Decoder):
    """The paper's section 3.1.2 with 4.2; the doubly stochastic term of 4.2.1 is training's.

    Each step compares the state with every cell, takes the cells' mean by those weights, gates it, and feeds it to the
    LSTM beside the last word. The words' scores read word, state and context (eq. 7), through a tanh as in the
    authors' code.
    """

    def __init__(self, config: DecoderConfig, vocabulary_size: int, channels: int):
        super().__init__(vocabulary_size)
        hidden, embed = config.hidden_size, config.embed_size
        self.words = Words(config, vocabulary_size)
        self.initial_hidden = nn.Linear(channels, hidden)
        self.initial_cell = nn.Linear(channels, hidden)
        self.attention = AdditiveAttention(channels, hidden, config.attention_size)
        self.gate = nn.Linear(hidden, channels)
        self.lstm = BeamLSTMCell(embed + channels, hidden)
        self.output_hidden = nn.Linear(hidden, embed)
        self.output_context = nn.Linear(channels, embed, bias=False)

    def init_state(self, grid: torch.Tensor) -> tuple[Tensors, Tensors]:
        mean = grid.mean(1, keepdim=True)  # (B, 1, C)
        state = {
            "hidden": torch.tanh(self.initial_hidden(mean)),  # (B, 1, H)
            "cell": torch.tanh(self.initial_cell(mean)),
        }
        keys = self.attention.key(grid)  # (B, cells, A)
        return {"grid": grid.to(keys.dtype), "keys": keys}, state  # under autocast, cast once and not at every step

    def step_features(
        self, tokens: torch.Tensor, state: Tensors, memory: Tensors
    ) -> tuple[torch.Tensor, Tensors, torch.Tensor]:
        attention = self.attention(state["hidden"], memory["keys"])  # (B, K, cells)
        weights, extra = self.look(attention, state)
        context = torch.matmul(weights.to(memory["grid"].dtype), memory["grid"])  # (B, K, C), eq. 13
        context = torch.sigmoid(self.gate(state["hidden"])) * context  # 4.2.1: beta
        word = self.words.embed(tokens)  # (B, K, E)
        hidden, cell = self.lstm(torch.cat([word, context], -1), state["hidden"], state["cell"])
        features = word + self.output_hidden(hidden) + self.output_context(context)  # eq. 7
        return torch.tanh(features), {"hidden": hidden, "cell": cell} | extra, attention

    def look(self, attention: torch.Tensor, state: Tensors) -> tuple[torch.Tensor, Tensors]:
        """Attention (B, K, cells) → the weights by which the cells make the context, and what the state notes of it."""
        return attention, {}

    def lm_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.words.score(features)

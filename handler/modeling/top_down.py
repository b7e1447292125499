"""Top-down attention (Anderson et al. 2018, section 3.2): one LSTM looks, a second one speaks; on the grid."""

import torch
from torch import nn

from handler.modeling.decoder import AdditiveAttention, BeamLSTMCell, Decoder, DecoderConfig, Dropout, Tensors, Words


class TopDown(Decoder):
    """The paper's captioning model with the grid's cells in the place of detected regions.

    The cells are first brought to the hidden state's size by a linear layer with ReLU and dropout, as the model's users
    do since self-critical training (Rennie et al. 2017). Both LSTMs start from zero.
    """

    def __init__(self, config: DecoderConfig, vocabulary_size: int, channels: int):
        super().__init__(vocabulary_size)
        hidden, embed = config.hidden_size, config.embed_size
        self.words = Words(config, vocabulary_size)
        self.project = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), Dropout(config.dropout))
        self.attention = AdditiveAttention(hidden, hidden, config.attention_size)
        self.attention_lstm = BeamLSTMCell(hidden + hidden + embed, hidden)
        self.language_lstm = BeamLSTMCell(hidden + hidden, hidden)
        same = hidden == embed
        self.to_embed = nn.Identity() if same else nn.Linear(hidden, embed)

    def init_state(self, grid: torch.Tensor) -> tuple[Tensors, Tensors]:
        cells = self.project(grid)  # (B, cells, H)
        memory = {"cells": cells, "keys": self.attention.key(cells), "mean": cells.mean(1)}
        zero = cells.new_zeros(len(grid), 1, cells.shape[-1])
        names = ("attention_hidden", "attention_cell", "language_hidden", "language_cell")
        return memory, dict.fromkeys(names, zero)

    def step_features(
        self, tokens: torch.Tensor, state: Tensors, memory: Tensors
    ) -> tuple[torch.Tensor, Tensors, torch.Tensor]:
        mean = memory["mean"].unsqueeze(1).expand_as(state["language_hidden"])
        seen = torch.cat([state["language_hidden"], mean, self.words.embed(tokens)], -1)  # eq. 2
        looker, looker_cell = self.attention_lstm(seen, state["attention_hidden"], state["attention_cell"])
        attention = self.attention(looker, memory["keys"])  # (B, K, cells), eq. 3–4
        context = torch.matmul(attention.to(memory["cells"].dtype), memory["cells"])  # (B, K, H), eq. 5
        said = torch.cat([context, looker], -1)  # eq. 6
        speaker, speaker_cell = self.language_lstm(said, state["language_hidden"], state["language_cell"])
        state = {
            "attention_hidden": looker,
            "attention_cell": looker_cell,
            "language_hidden": speaker,
            "language_cell": speaker_cell,
        }
        return self.to_embed(speaker), state, attention

    def lm_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.words.score(features)  # eq. 7

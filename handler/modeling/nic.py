"""Show and Tell (Vinyals et al. 2015): the image is the LSTM's first input, the words follow."""

import torch
from torch import nn

from handler.modeling.decoder import BeamLSTMCell, Decoder, DecoderConfig, Tensors, Words


class NIC(Decoder):
    """Neural Image Caption generator, equations 10–12 of the paper; the image vector is the grid's mean.

    The word's scores read the hidden state through one linear layer where its size is not the word vectors'.
    """

    has_attention = False

    def __init__(self, config: DecoderConfig, vocabulary_size: int, channels: int):
        super().__init__(vocabulary_size)
        self.image = nn.Linear(channels, config.embed_size)
        self.words = Words(config, vocabulary_size)
        self.lstm = BeamLSTMCell(config.embed_size, config.hidden_size)
        same = config.hidden_size == config.embed_size
        self.to_embed = nn.Identity() if same else nn.Linear(config.hidden_size, config.embed_size)

    def init_state(self, grid: torch.Tensor) -> tuple[Tensors, Tensors]:
        image = self.image(grid.mean(1, keepdim=True))  # (B, 1, E), eq. 10: x_-1 = CNN(I)
        zero = image.new_zeros(len(grid), 1, self.lstm.hidden_size)
        hidden, cell = self.lstm(image, zero, zero)
        return {}, {"hidden": hidden, "cell": cell}

    def step_features(
        self, tokens: torch.Tensor, state: Tensors, memory: Tensors
    ) -> tuple[torch.Tensor, Tensors, None]:
        hidden, cell = self.lstm(self.words.embed(tokens), state["hidden"], state["cell"])  # eq. 11–12
        return self.to_embed(hidden), {"hidden": hidden, "cell": cell}, None

    def lm_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.words.score(features)

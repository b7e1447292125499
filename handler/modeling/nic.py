"""Show and Tell (Vinyals et al. 2015): the image is the first input of the LSTM, the tokens follow."""

from dataclasses import dataclass, field

import torch
from torch import nn

from handler.modeling.decoder import Decoder, DecoderConfig, Memory, State, StepFeatures
from handler.modeling.layers import BeamLSTMCell, TokenEmbedding


@dataclass(frozen=True)
class NICConfig(DecoderConfig):
    """Config of `NIC`.

    Attributes:
        hidden_dim: Size of the LSTM state H, ≥ 1.
    """

    name: str = field(default="nic", init=False)
    hidden_dim: int = 512


class NIC(Decoder):
    """Neural Image Caption generator, equations 10–12 of the paper; the image vector is the mean of the grid.

    If the sizes of hidden state and embedding differ, a linear layer maps one to the other before the output layer.
    """

    config_class = NICConfig
    has_attention = False
    uses_mean_cell = True

    def __init__(self, config: NICConfig, vocabulary_size: int, channels: int) -> None:
        super().__init__(vocabulary_size)
        embed_dim, hidden_dim = config.embed_dim, config.hidden_dim
        self.image_proj = nn.Linear(channels, embed_dim)
        self.embedding = TokenEmbedding(vocabulary_size, embed_dim, config.dropout, tied=config.tie_embeddings)
        self.lstm = BeamLSTMCell(embed_dim, hidden_dim)
        self.output_proj = nn.Identity() if hidden_dim == embed_dim else nn.Linear(hidden_dim, embed_dim)

    def init_state(self, grid: torch.Tensor) -> tuple[Memory, State]:
        """Feed the image to the LSTM; there is no memory."""
        image = self.image_proj(grid.mean(1, keepdim=True))  # (B, 1, E), eq. 10: x_-1 = CNN(I)
        zero = image.new_zeros(len(grid), 1, self.lstm.hidden_size)
        hidden, cell = self.lstm(image, zero, zero)
        return {}, {"hidden": hidden, "cell": cell}

    def step_features(self, tokens: torch.Tensor, state: State, memory: Memory) -> StepFeatures:
        """Run one step of the LSTM."""
        hidden, cell = self.lstm(self.embedding.embed(tokens), state["hidden"], state["cell"])  # eq. 11–12
        return StepFeatures(self.output_proj(hidden), {"hidden": hidden, "cell": cell}, memory)

    def lm_head(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (…, E) to logits (…, V)."""
        return self.embedding.logits(features)

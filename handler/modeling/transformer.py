"""A Transformer decoder (Vaswani et al. 2017) with cross-attention over the grid, keys and values cached."""

import math

import torch
from torch import nn

from handler.modeling.decoder import Decoder, DecoderConfig, Dropout, TeacherForcingOutput, Tensors, Words
from handler.modeling.layers import grid_shape
from handler.modeling.vocabulary import PAD_ID


class Transformer(Decoder):
    """Layers of self-attention over the words, cross-attention over the cells, and a feed-forward layer.

    Normalisation comes first in each (Xiong et al. 2020), which trains without care at these sizes. Words' and cells'
    places are told by sines (Vaswani et al. 2017, 3.5; for cells one half of the channels the row, the other the
    column), so that neither a longer caption nor another grid needs other weights. `grid_layers` layers of
    self-attention let the cells see one another first. The attention that is shown is the last layer's over the cells,
    the mean of its heads.

    Padding costs nothing in the large products: they run on the N tokens of all captions that are no padding.
    """

    def __init__(self, config: DecoderConfig, vocabulary_size: int, channels: int):
        super().__init__(vocabulary_size)
        size = config.embed_size
        if size % config.heads or size % 4:
            raise ValueError(f"embed_size is a multiple of heads and of 4, not {size} with {config.heads} heads.")
        self.words = Words(config, vocabulary_size)
        nn.init.normal_(self.words.embedding.weight, std=size**-0.5)
        self.project = nn.Sequential(nn.Linear(channels, size), nn.LayerNorm(size), Dropout(config.dropout))
        self.grid_layers = nn.ModuleList(GridLayer(config) for _ in range(config.grid_layers))
        self.layers = nn.ModuleList(WordLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(size)

    def init_state(self, grid: torch.Tensor) -> tuple[Tensors, Tensors]:
        """The memory holds each layer's keys and values of the cells, and grows by those of the words.

        What hypotheses have said stays where it is, K words a step one after another; a hypothesis' state names those
        that are its own. So to reorder hypotheses is to reorder numbers, and no key or value is moved.
        """
        cells = self._cells(grid)
        memory = {}
        for index, layer in enumerate(self.layers):
            key, value = layer.cross.remember(cells)
            memory[f"cell_keys{index}"] = key.transpose(-1, -2).contiguous()  # (B, heads, D, cells)
            memory[f"cell_values{index}"] = value.contiguous()  # (B, heads, cells, D)
        return memory, {"own": torch.zeros(len(grid), 1, 0, dtype=torch.long, device=grid.device)}  # (B, 1, words)

    def step_features(
        self, tokens: torch.Tensor, state: Tensors, memory: Tensors
    ) -> tuple[torch.Tensor, Tensors, torch.Tensor]:
        images, hypotheses = tokens.shape
        slots = torch.arange(hypotheses, device=tokens.device)
        own = torch.cat([state["own"], slots.view(1, -1, 1).expand(images, -1, 1)], 2)  # (B, K, words)
        place = own.shape[2] - 1
        others = (own.unsqueeze(-1) != slots).view(images, 1, hypotheses, -1)  # (B, 1, K, words · K)
        words = self._embed(tokens.flatten(), slots.new_full((1,), place))  # (BK, E)

        def split(tensor: torch.Tensor) -> torch.Tensor:  # (BK, heads, D) → (B, heads, K, D)
            return tensor.unflatten(0, (images, hypotheses)).transpose(1, 2)

        def merge(tensor: torch.Tensor) -> torch.Tensor:  # (B, heads, K, D) → (BK, E)
            return tensor.transpose(1, 2).flatten(2).flatten(0, 1)

        for index, layer in enumerate(self.layers):
            query, key, value = map(split, layer.own.ask_and_remember(layer.own_norm(words)))
            key = key.transpose(-1, -2)
            if place:
                key = torch.cat([memory[f"word_keys{index}"], key], 3)  # (B, heads, D, words · K)
                value = torch.cat([memory[f"word_values{index}"], value], 2)  # (B, heads, words · K, D)
            memory |= {f"word_keys{index}": key, f"word_values{index}": value}
            looked, _ = attend(query, key, value, others)
            words = words + layer.own_out(merge(looked))
            query = split(layer.cross.ask(layer.cross_norm(words)))
            looked, attention = attend(query, memory[f"cell_keys{index}"], memory[f"cell_values{index}"])
            words = words + layer.cross_out(merge(looked))
            words = words + layer.feed(words)
        return self.norm(words).view(images, hypotheses, -1), {"own": own}, attention.mean(1)  # (B, K, cells)

    def lm_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.words.score(features)

    def forward(self, grid: torch.Tensor, tokens: torch.Tensor) -> TeacherForcingOutput:
        """Teacher forcing, all tokens at once; see `Decoder.forward`."""
        images, hypotheses, length = tokens.shape
        cells = self._cells(grid)
        present = (tokens != PAD_ID).flatten(0, 1)  # (BK, T)
        place = torch.arange(length, device=tokens.device).expand_as(present)[present]  # (N,)
        future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)

        def spread(packed: torch.Tensor) -> torch.Tensor:  # (N, heads, D) → (BK, heads, T, D)
            padded = packed.new_zeros(*present.shape, *packed.shape[1:])
            padded[present] = packed
            return padded.transpose(1, 2)

        words = self._embed(tokens.flatten(0, 1)[present], place)  # (N, E)
        weights = None
        for layer in self.layers:
            query, key, value = map(spread, layer.own.ask_and_remember(layer.own_norm(words)))
            looked, _ = attend(query, key.transpose(-1, -2), value, future)  # (BK, heads, T, D)
            words = words + layer.own_out(looked.transpose(1, 2)[present].flatten(1))
            query = spread(layer.cross.ask(layer.cross_norm(words)))  # (BK, heads, T, D)
            query = query.unflatten(0, (images, hypotheses)).transpose(1, 2).flatten(2, 3)  # (B, heads, K·T, D)
            key, value = layer.cross.remember(cells)
            looked, weights = attend(query, key.transpose(-1, -2), value)
            looked = looked.transpose(1, 2).reshape(images * hypotheses, length, -1)[present]
            words = words + layer.cross_out(looked)
            words = words + layer.feed(words)
        logits = self.lm_head(self.norm(words))
        attention = weights.mean(1).unflatten(1, (hypotheses, length))  # (B, K, T, cells)
        return TeacherForcingOutput(logits, attention * present.view(images, hypotheses, length, 1))

    def _cells(self, grid: torch.Tensor) -> torch.Tensor:
        """Grid (B, cells, C) → cells (B, cells, E) that know their place and one another."""
        cells = self.project(grid)
        rows, columns = grid_shape(grid.shape[1])
        half = cells.shape[-1] // 2
        row = sines(torch.arange(rows, device=grid.device), half).unsqueeze(1).expand(rows, columns, half)
        column = sines(torch.arange(columns, device=grid.device), half).unsqueeze(0).expand(rows, columns, half)
        cells = cells + torch.cat([row, column], -1).flatten(0, 1).to(cells.dtype)
        for layer in self.grid_layers:
            cells = layer(cells)
        return cells

    def _embed(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Tokens (N,) at places (N,) → vectors (N, E)."""
        size = self.norm.normalized_shape[0]
        return self.words.dropout(self.words.embedding(tokens) * math.sqrt(size) + sines(places, size))


class WordLayer(nn.Module):
    """The parts of a decoder's layer; `Transformer` puts them together, for one word or for all."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        size = config.embed_size
        self.own_norm, self.own, self.own_out = nn.LayerNorm(size), Heads(config), Output(size, size, config.dropout)
        self.cross_norm, self.cross = nn.LayerNorm(size), Heads(config)
        self.cross_out = Output(size, size, config.dropout)
        self.feed = feed_forward(config)


class GridLayer(nn.Module):
    """Self-attention over the cells and a feed-forward layer: (B, cells, E) → (B, cells, E)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        size = config.embed_size
        self.norm, self.own, self.out = nn.LayerNorm(size), Heads(config), Output(size, size, config.dropout)
        self.feed = feed_forward(config)

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        query, key, value = (part.transpose(1, 2) for part in self.own.ask_and_remember(self.norm(cells)))
        looked, _ = attend(query, key.transpose(-1, -2), value)  # (B, heads, cells, D)
        cells = cells + self.out(looked.transpose(1, 2).flatten(2))
        return cells + self.feed(cells)


class Heads(nn.Module):
    """Queries, keys and values (…, E) → (…, heads, D)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.embed_size, config.embed_size)
        self.memory = nn.Linear(config.embed_size, 2 * config.embed_size)

    def ask(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.query(inputs).unflatten(-1, (self.heads, -1))

    def ask_and_remember(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value of the same inputs."""
        key, value = self.memory(inputs).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return self.ask(inputs), key, value

    def remember(self, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cells (B, cells, E) → their keys and values, each (B, heads, cells, D)."""
        key, value = self.memory(cells).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return key, value


class Output(nn.Sequential):
    """A linear layer and dropout, at the end of a residual branch."""

    def __init__(self, inputs: int, outputs: int, dropout: float):
        super().__init__(nn.Linear(inputs, outputs), Dropout(dropout))


def feed_forward(config: DecoderConfig) -> nn.Sequential:
    """Normalisation, then two linear layers with a ReLU between."""
    size, hidden = config.embed_size, config.hidden_size
    return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, hidden), nn.ReLU(), Output(hidden, size, config.dropout))


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, hidden: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention that also gives its weights.

    Args:
        query: (B, heads, Q, D).
        key: (B, heads, D, M).
        value: (B, heads, M, D).
        hidden: (Q, M) or (B, 1, Q, M), true where a query must not look.

    Returns:
        (B, heads, Q, D), and the weights (B, heads, Q, M), which sum to 1 over M.
    """
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key)
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    weights = scores.softmax(-1)
    return torch.matmul(weights.to(value.dtype), value), weights


def sines(places: torch.Tensor, size: int) -> torch.Tensor:
    """Places (…) → (…, size): sines, then cosines, of wavelengths from 2π to 10,000 · 2π."""
    half = size // 2
    rates = torch.exp(torch.arange(half, device=places.device) * (-math.log(10_000) / half))
    angles = places.unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1)

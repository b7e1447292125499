"""Transformer decoder (Vaswani et al. 2017) with cross-attention over the grid and a KV cache."""

import math
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn

from handler.modeling.decoder import Decoder, DecoderConfig, Memory, State, StepFeatures, TeacherForcingOutput
from handler.modeling.layers import (
    Dropout,
    LinearDropout,
    MultiHeadProjection,
    TokenEmbedding,
    attention,
    feed_forward,
    grid_shape,
    sinusoidal_encoding,
)
from handler.modeling.vocabulary import PAD_ID


@dataclass(frozen=True)
class TransformerConfig(DecoderConfig):
    """Config of `Transformer`; `embed_dim` is the size of all its vectors, a multiple of `num_heads` and of 4.

    Attributes:
        ffn_dim: Size of the hidden layer in a feed-forward block, ≥ 1.
        num_layers: Number of decoder layers, ≥ 1.
        num_encoder_layers: Number of self-attention layers over the cells before the decoder, ≥ 0.
        encoder_norm: Normalize the output of the encoder layers, which are pre-norm. Bundles without this field do not.
        num_heads: Number of attention heads, ≥ 1.
    """

    name: str = field(default="transformer", init=False)
    ffn_dim: int = 512
    num_layers: int = 3
    num_encoder_layers: int = field(default=0, metadata={"min": 0})
    encoder_norm: bool = True
    num_heads: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embed_dim % self.num_heads or self.embed_dim % 4:
            raise ValueError(
                f"embed_dim must be a multiple of num_heads and of 4, not {self.embed_dim} with {self.num_heads} heads."
            )


class Transformer(Decoder):
    """Layers of self-attention over the tokens, cross-attention over the cells, and a feed-forward block.

    Normalization comes first in each (pre-norm, Xiong et al. 2020), which trains stably at these sizes. Positions of
    tokens and cells have sinusoidal encodings (Vaswani et al. 2017, 3.5; of a cell, one half of the channels encodes
    the row, the other the column): a longer caption or another grid needs no other weights. The optional encoder layers
    apply self-attention to the cells first. The attention that is returned is that of the last cross-attention, the
    mean of its heads.

    Padding costs nothing in the large products: they run on the N tokens that are not padding.
    """

    config_class = TransformerConfig

    def __init__(self, config: TransformerConfig, vocabulary_size: int, channels: int) -> None:
        super().__init__(vocabulary_size)
        embed_dim = config.embed_dim
        self.embedding = TokenEmbedding(vocabulary_size, embed_dim, config.dropout, tied=config.tie_embeddings)
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)
        self.input_proj = nn.Sequential(
            nn.Linear(channels, embed_dim), nn.LayerNorm(embed_dim), Dropout(config.dropout)
        )
        # A ModuleList does not know the type of its modules.
        encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.encoder_layers = cast(list[EncoderLayer], encoder_layers)
        with_norm = config.encoder_norm and config.num_encoder_layers
        self.encoder_norm = nn.LayerNorm(embed_dim) if with_norm else nn.Identity()
        layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.layers = cast(list[DecoderLayer], layers)
        self.norm = nn.LayerNorm(embed_dim)

    def init_state(self, grid: torch.Tensor) -> tuple[Memory, State]:
        """Compute keys and values of the cells for each layer; the KV cache of the tokens is empty.

        The KV cache stores all K hypotheses of each step and is never reordered. The state of each hypothesis holds the
        cache slots that belong to it, so reordering hypotheses only permutes indices.
        """
        cells = self._encode_grid(grid)
        memory = {}
        for index, layer in enumerate(self.layers):
            key, value = layer.cross_attn.project_kv(cells)
            memory[f"cell_keys{index}"] = key.transpose(-1, -2).contiguous()  # (B, heads, D, cells)
            memory[f"cell_values{index}"] = value.contiguous()  # (B, heads, cells, D)
        history_slots = torch.zeros(len(grid), 1, 0, dtype=torch.long, device=grid.device)  # (B, 1, tokens so far)
        return memory, {"history_slots": history_slots}

    def step_features(self, tokens: torch.Tensor, state: State, memory: Memory) -> StepFeatures:
        """Run one step of all layers; the returned memory includes keys and values of the tokens."""
        images, hypotheses = tokens.shape
        slots = torch.arange(hypotheses, device=tokens.device)
        history_slots = torch.cat([state["history_slots"], slots.view(1, -1, 1).expand(images, -1, 1)], 2)  # (B, K, t)
        position = history_slots.shape[2] - 1
        mask = (history_slots.unsqueeze(-1) != slots).view(images, 1, hypotheses, -1)  # (B, 1, K, t · K)
        hidden = self._embed(tokens.flatten(), slots.new_full((1,), position))  # (BK, E)
        memory = dict(memory)

        def split(tensor: torch.Tensor) -> torch.Tensor:  # (BK, heads, D) → (B, heads, K, D)
            return torch.unflatten(tensor, 0, (images, hypotheses)).transpose(1, 2)

        def merge(tensor: torch.Tensor) -> torch.Tensor:  # (B, heads, K, D) → (BK, E)
            return tensor.transpose(1, 2).flatten(2).flatten(0, 1)

        for index, layer in enumerate(self.layers):
            query, key, value = map(split, layer.self_attn.project_qkv(layer.self_attn_norm(hidden)))
            key = key.transpose(-1, -2)
            if position:
                key = torch.cat([memory[f"token_keys{index}"], key], 3)  # (B, heads, D, t · K)
                value = torch.cat([memory[f"token_values{index}"], value], 2)  # (B, heads, t · K, D)
            memory |= {f"token_keys{index}": key, f"token_values{index}": value}
            attended, _ = attention(query, key, value, mask)
            hidden = hidden + layer.self_attn_out(merge(attended))
            query = split(layer.cross_attn.project_q(layer.cross_attn_norm(hidden)))
            attended, weights = attention(query, memory[f"cell_keys{index}"], memory[f"cell_values{index}"])
            hidden = hidden + layer.cross_attn_out(merge(attended))
            hidden = hidden + layer.ffn(hidden)
        features = self.norm(hidden).view(images, hypotheses, -1)
        return StepFeatures(features, {"history_slots": history_slots}, memory, weights.mean(1))

    def lm_head(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (…, E) to logits (…, V)."""
        return self.embedding.logits(features)

    def forward(self, grid: torch.Tensor, tokens: torch.Tensor) -> TeacherForcingOutput:
        """Teacher forcing, all tokens at once; see `Decoder.forward`."""
        images, hypotheses, length = tokens.shape
        cells = self._encode_grid(grid)
        is_token = (tokens != PAD_ID).flatten(0, 1)  # (BK, T)
        position = torch.arange(length, device=tokens.device).expand_as(is_token)[is_token]  # (N,)
        causal_mask = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)

        def pad_packed(packed: torch.Tensor) -> torch.Tensor:  # (N, heads, D) → (BK, heads, T, D)
            padded = packed.new_zeros(*is_token.shape, *packed.shape[1:])
            padded[is_token] = packed
            return padded.transpose(1, 2)

        hidden = self._embed(tokens.flatten(0, 1)[is_token], position)  # (N, E)
        for layer in self.layers:
            query, key, value = map(pad_packed, layer.self_attn.project_qkv(layer.self_attn_norm(hidden)))
            attended, _ = attention(query, key.transpose(-1, -2), value, causal_mask)  # (BK, heads, T, D)
            hidden = hidden + layer.self_attn_out(attended.transpose(1, 2)[is_token].flatten(1))
            query = pad_packed(layer.cross_attn.project_q(layer.cross_attn_norm(hidden)))  # (BK, heads, T, D)
            query = torch.unflatten(query, 0, (images, hypotheses)).transpose(1, 2).flatten(2, 3)  # (B, heads, K·T, D)
            key, value = layer.cross_attn.project_kv(cells)
            attended, weights = attention(query, key.transpose(-1, -2), value)
            attended = attended.transpose(1, 2).reshape(images * hypotheses, length, -1)[is_token]
            hidden = hidden + layer.cross_attn_out(attended)
            hidden = hidden + layer.ffn(hidden)
        logits = self.lm_head(self.norm(hidden))
        shown = torch.unflatten(weights.mean(1), 1, (hypotheses, length))  # (B, K, T, cells)
        return TeacherForcingOutput(logits, shown * is_token.view(images, hypotheses, length, 1))

    def _encode_grid(self, grid: torch.Tensor) -> torch.Tensor:
        """Grid (B, cells, C) → cells (B, cells, E) with positional encoding and the encoder layers applied."""
        cells: torch.Tensor = self.input_proj(grid)
        rows, columns = grid_shape(grid.shape[1])
        half = cells.shape[-1] // 2
        row = sinusoidal_encoding(torch.arange(rows, device=grid.device), half)
        column = sinusoidal_encoding(torch.arange(columns, device=grid.device), half)
        encoding = torch.cat(
            [row.unsqueeze(1).expand(rows, columns, half), column.unsqueeze(0).expand(rows, columns, half)], -1
        )
        cells = cells + encoding.flatten(0, 1).to(cells.dtype)
        for layer in self.encoder_layers:
            cells = layer(cells)
        normalized: torch.Tensor = self.encoder_norm(cells)
        return normalized

    def _embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens (N,) at positions (N,) → embeddings (N, E)."""
        embed_dim = self.norm.normalized_shape[0]
        embedded = self.embedding(tokens) * math.sqrt(embed_dim) + sinusoidal_encoding(positions, embed_dim)
        dropped: torch.Tensor = self.embedding.dropout(embedded)
        return dropped


class DecoderLayer(nn.Module):
    """Modules of a decoder layer; `Transformer` applies them, to one token or to all."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        embed_dim, dropout = config.embed_dim, config.dropout
        self.self_attn_norm = nn.LayerNorm(embed_dim)
        self.self_attn = MultiHeadProjection(embed_dim, config.num_heads)
        self.self_attn_out = LinearDropout(embed_dim, embed_dim, dropout)
        self.cross_attn_norm = nn.LayerNorm(embed_dim)
        self.cross_attn = MultiHeadProjection(embed_dim, config.num_heads)
        self.cross_attn_out = LinearDropout(embed_dim, embed_dim, dropout)
        self.ffn = feed_forward(embed_dim, config.ffn_dim, dropout)


class EncoderLayer(nn.Module):
    """Self-attention over the cells and a feed-forward block: (B, cells, E) → (B, cells, E)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        embed_dim, dropout = config.embed_dim, config.dropout
        self.norm = nn.LayerNorm(embed_dim)
        self.self_attn = MultiHeadProjection(embed_dim, config.num_heads)
        self.out = LinearDropout(embed_dim, embed_dim, dropout)
        self.ffn = feed_forward(embed_dim, config.ffn_dim, dropout)

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        query, key, value = (part.transpose(1, 2) for part in self.self_attn.project_qkv(self.norm(cells)))
        attended, _ = attention(query, key.transpose(-1, -2), value)  # (B, heads, cells, D)
        cells = cells + self.out(attended.transpose(1, 2).flatten(2))
        hidden: torch.Tensor = self.ffn(cells)
        return cells + hidden

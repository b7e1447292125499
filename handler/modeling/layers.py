"""Layers shared by the decoders: token embedding, LSTM cell, attention, positional encoding.

Letters for shapes are those of `handler.modeling.decoder`; D is the size of an attention head.
"""

import math

import torch
from torch import nn
from torch.nn import functional


def grid_shape(num_cells: int) -> tuple[int, int]:
    """Return rows and columns of a grid over a square image.

    Raises:
        ValueError: If `num_cells` is not a square number.
    """
    side = math.isqrt(num_cells)
    if side * side != num_cells:
        raise ValueError(f"A grid of {num_cells} cells is not square.")
    return side, side


class Dropout(nn.Module):
    """Dropout from one random byte per element: on a CPU five times as fast as sampling from Bernoulli.

    Args:
        rate: Share of elements set to 0 in training, from 0 to below 1; rounded to 1/256.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.threshold = min(round(rate * 256), 255)  # of 256 byte values

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """Drop elements of a tensor of any shape."""
        if not self.training or not self.threshold:
            return tensor
        words = torch.empty(-(-tensor.numel() // 8), dtype=torch.long, device=tensor.device)
        noise = words.random_(-(2**63), 2**63 - 1).view(torch.uint8)[: tensor.numel()].view(tensor.shape)
        return tensor * ((noise >= self.threshold).to(tensor.dtype) * (256 / (256 - self.threshold)))


class TokenEmbedding(nn.Embedding):
    """Token embedding and output layer, with weights of their own or tied.

    Args:
        vocabulary_size: V.
        embed_dim: E.
        dropout: Rate on embeddings and on the input of the output layer.
        tied: Use the embedding as the weight of the output layer (Press and Wolf 2017).
    """

    def __init__(self, vocabulary_size: int, embed_dim: int, dropout: float, *, tied: bool) -> None:
        super().__init__(vocabulary_size, embed_dim)
        nn.init.uniform_(self.weight, -0.1, 0.1)
        if not tied:
            self.output_weight = nn.Parameter(torch.empty(vocabulary_size, embed_dim).uniform_(-0.1, 0.1))
        self.output_bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.tied = tied
        self.dropout = Dropout(dropout)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens (…) to embeddings (…, E), with dropout in training."""
        embedded: torch.Tensor = self.dropout(self(tokens))
        return embedded

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (…, E) to logits (…, V)."""
        weight = self.weight if self.tied else self.output_weight
        return functional.linear(self.dropout(features), weight, self.output_bias)


class BeamLSTMCell(nn.LSTMCell):
    """LSTM cell over hypotheses, with a leading (B, K) in place of one batch dimension."""

    def forward(  # type: ignore[override]  # the two state tensors are passed one by one, not as a tuple
        self, inputs: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map inputs (B, K, input) and the state, two tensors (B, K, H), to the next state."""
        shape = inputs.shape[:2]
        hidden, cell = super().forward(inputs.flatten(0, 1), (hidden.flatten(0, 1), cell.flatten(0, 1)))
        return torch.unflatten(hidden, 0, shape), torch.unflatten(cell, 0, shape)


class AdditiveAttention(nn.Module):
    """Additive attention with one hidden layer (Bahdanau et al. 2015; Xu et al. 2015, eq. 4–5).

    Args:
        key_dim: Size of a cell.
        query_dim: Size of the query, H.
        attention_dim: Size of the hidden layer, A.
    """

    def __init__(self, key_dim: int, query_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.key_proj = nn.Linear(key_dim, attention_dim)
        self.query_proj = nn.Linear(query_dim, attention_dim, bias=False)
        self.score_proj = nn.Linear(attention_dim, 1, bias=False)

    def forward(self, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Compute attention weights.

        Args:
            query: (B, K, H).
            keys: (B, cells, A), the output of `key_proj`.

        Returns:
            (B, K, cells), sums to 1 over the cells.
        """
        hidden = (keys.unsqueeze(1) + self.query_proj(query).unsqueeze(2)).tanh_()  # (B, K, cells, A)
        weights: torch.Tensor = self.score_proj(hidden).squeeze(-1).softmax(-1)
        return weights


class MultiHeadProjection(nn.Module):
    """Linear projections to queries, keys and values of several heads: (…, E) → (…, heads, D).

    Args:
        embed_dim: E, a multiple of `num_heads`.
        num_heads: Number of heads.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.kv_proj = nn.Linear(embed_dim, 2 * embed_dim)

    def project_q(self, inputs: torch.Tensor) -> torch.Tensor:
        """Project inputs to queries."""
        query: torch.Tensor = self.q_proj(inputs).unflatten(-1, (self.num_heads, -1))
        return query

    def project_qkv(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Project the same inputs to queries, keys and values."""
        key, value = self.kv_proj(inputs).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        return self.project_q(inputs), key, value

    def project_kv(self, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Project cells (B, cells, E) to keys and values, each (B, heads, cells, D)."""
        key, value = self.kv_proj(cells).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return key, value


class LinearDropout(nn.Sequential):
    """Linear layer and dropout, the end of a residual branch."""

    def __init__(self, in_features: int, out_features: int, dropout: float) -> None:
        super().__init__(nn.Linear(in_features, out_features), Dropout(dropout))


def feed_forward(embed_dim: int, ffn_dim: int, dropout: float) -> nn.Sequential:
    """Build a pre-norm feed-forward block: normalization, then two linear layers with a ReLU between."""
    return nn.Sequential(
        nn.LayerNorm(embed_dim),
        nn.Linear(embed_dim, ffn_dim),
        nn.ReLU(),
        LinearDropout(ffn_dim, embed_dim, dropout),
    )


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute scaled dot-product attention and its weights (Vaswani et al. 2017, eq. 1).

    PyTorch's `scaled_dot_product_attention` does not return weights. At these sizes on a CPU it takes as long in
    float32, and a training step in bfloat16 takes a third longer with it.

    Args:
        query: (B, heads, Q, D).
        key: (B, heads, D, M).
        value: (B, heads, M, D).
        mask: (Q, M) or (B, 1, Q, M), True if a query must not attend to a key.

    Returns:
        The output (B, heads, Q, D), and the weights (B, heads, Q, M), which sum to 1 over M.
    """
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key)
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    weights = scores.softmax(-1)
    return torch.matmul(weights.to(value.dtype), value), weights


def sinusoidal_encoding(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Encode positions (…) as (…, dim): sines, then cosines, wavelengths 2π to 10,000 · 2π (Vaswani et al. 2017, 3.5).

    Args:
        positions: Integers ≥ 0.
        dim: An even number.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10_000) / half))
    angles = positions.unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)

"""Layers shared by the decoders, against values worked out by hand."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from handler.modeling.layers import (
    AdditiveAttention,
    BeamLSTMCell,
    Dropout,
    TokenEmbedding,
    attention,
    grid_shape,
    sinusoidal_encoding,
)


def test_attention_matches_equation_1_by_hand():
    """Vaswani et al. 2017, eq. 1: query 1, keys ln 3 and 0, hence weights 3:1."""
    query, key = torch.tensor([[[[1.0]]]]), torch.tensor([[[[1.0986123, 0.0]]]])
    value = torch.tensor([[[[4.0], [8.0]]]])
    attended, weights = attention(query, key, value)
    torch.testing.assert_close(weights, torch.tensor([[[[0.75, 0.25]]]]))
    torch.testing.assert_close(attended, torch.tensor([[[[5.0]]]]))


def test_attention_equals_that_of_pytorch():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 4, 7), torch.randn(2, 3, 7, 4)
    mask = torch.rand(2, 1, 5, 7) < 0.3
    attended, weights = attention(query, key, value, mask)
    torch.testing.assert_close(
        attended, scaled_dot_product_attention(query, key.transpose(-1, -2), value, attn_mask=~mask)
    )
    assert not weights[mask.expand_as(weights)].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))


def test_sinusoidal_encoding_by_hand():
    expected = torch.tensor([[0.0, 0, 1, 1], [0.8414710, 0.0099998, 0.5403023, 0.99995]])
    torch.testing.assert_close(sinusoidal_encoding(torch.tensor([0, 1]), 4), expected)


def test_additive_attention_sums_to_1_over_the_cells():
    layer = AdditiveAttention(4, 6, 3)
    weights = layer(torch.randn(2, 5, 6), layer.key_proj(torch.randn(2, 9, 4)))
    assert weights.shape == (2, 5, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5))


def test_beam_lstm_cell_equals_an_lstm_cell_per_hypothesis():
    cell = BeamLSTMCell(4, 5)
    inputs, hidden, state = torch.randn(2, 3, 4), torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    new_hidden, new_state = cell(inputs, hidden, state)
    for i in range(2):
        expected = torch.nn.LSTMCell.forward(cell, inputs[i], (hidden[i], state[i]))
        torch.testing.assert_close((new_hidden[i], new_state[i]), expected)


def test_token_embedding_tied_uses_one_matrix():
    embedding = TokenEmbedding(5, 3, 0.0, tied=True)
    assert set(embedding.state_dict()) == {"weight", "output_bias"}
    torch.testing.assert_close(embedding.logits(torch.eye(3)), embedding.weight.T)
    untied = TokenEmbedding(5, 3, 0.0, tied=False)
    torch.testing.assert_close(untied.logits(torch.eye(3)), untied.output_weight.T)


def test_dropout_in_training_drops_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    dropout, ones = Dropout(0.25), torch.ones(1001, 97)
    dropped = dropout(ones)
    assert (dropped == 0).float().mean() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean() == pytest.approx(1, abs=0.01)
    assert dropout.eval()(ones) is ones


@pytest.mark.parametrize(("num_cells", "shape"), [(1, (1, 1)), (49, (7, 7)), (100, (10, 10))])
def test_grid_shape_of_a_square(num_cells, shape):
    assert grid_shape(num_cells) == shape


def test_grid_shape_of_no_square_raises():
    with pytest.raises(ValueError, match="A grid of 50 cells is not square"):
        grid_shape(50)

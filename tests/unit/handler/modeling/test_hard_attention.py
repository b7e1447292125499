"""Show, Attend and Tell (Xu et al. 2015), hard attention: equations and behavior."""

import pytest
import torch

from tests.helpers.bundles import small_decoder


def test_hard_attention_samples_one_cell_in_training_and_none_in_decoding():
    d = small_decoder("hard_attention")
    attention = torch.tensor([[[0.7, 0.2, 0.1]]]).expand(1, 4000, 3)
    weights, sampled_cells = d.eval().context_weights(attention, {})
    assert weights is attention
    assert sampled_cells is None
    _, state = d.train().init_state(torch.zeros(2000, 9, 4))
    assert state["soft_context"].float().mean() == pytest.approx(0.5, abs=0.05)  # 4.1: for half of the images
    soft_context = torch.arange(4000).unsqueeze(0) % 2 == 0
    weights, sampled_cells = d.context_weights(attention, {"soft_context": soft_context})
    sampled = sampled_cells >= 0
    assert torch.equal(sampled, ~soft_context)
    torch.testing.assert_close(weights[~sampled], attention[~sampled])
    assert (weights[sampled].gather(1, sampled_cells[sampled].unsqueeze(1)) == 1).all()
    assert (weights[sampled].sum(-1) == 1).all()
    assert (sampled_cells[sampled] == 0).float().mean() == pytest.approx(0.7, abs=0.05)


def test_hard_attention_in_training_returns_the_sampled_cells():
    d = small_decoder("hard_attention").train()
    tokens = torch.randint(1, 11, (40, 2, 4))
    sampled_cells = d(torch.randn(40, 9, 4), tokens).sampled_cells
    assert sampled_cells.shape == tokens.shape
    sampled = sampled_cells >= 0
    assert torch.equal(sampled, sampled[:, :1, :1].expand_as(sampled))  # an image's context is sampled always or never
    assert sampled.any()
    assert not sampled.all()

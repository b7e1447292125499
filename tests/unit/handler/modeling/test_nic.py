"""Show and Tell (Vinyals et al. 2015): equations and behavior."""

import torch

from tests.helpers.bundles import small_decoder


@torch.inference_mode()
def test_nic_feeds_the_image_first():
    d = small_decoder("nic")
    grid = torch.randn(2, 9, 4)
    memory, state = d.init_state(grid)
    assert memory == {}
    hidden, cell = torch.nn.LSTMCell.forward(d.lstm, d.image_proj(grid.mean(1)))
    torch.testing.assert_close(state["hidden"][:, 0], hidden)
    torch.testing.assert_close(state["cell"][:, 0], cell)


def test_nic_with_larger_state_projects_its_output():
    d = small_decoder("nic", hidden_dim=10)
    logits, attention, _ = d(torch.randn(2, 9, 4), torch.randint(1, 11, (2, 1, 3)))
    assert logits.shape == (6, 11)
    assert attention is None


@torch.inference_mode()
def test_nic_mean_cell_gives_the_same_as_the_grid():
    d, grid = small_decoder("nic"), torch.randn(2, 9, 4)
    assert d.uses_mean_cell
    (_, whole), (_, mean) = d.init_state(grid), d.init_state(grid.mean(1, keepdim=True))
    torch.testing.assert_close(mean["hidden"], whole["hidden"])

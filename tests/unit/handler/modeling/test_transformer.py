"""Transformer decoder (Vaswani et al. 2017): equations and behavior."""

import torch

from tests.helpers.bundles import small_decoder


def test_transformer_tokens_do_not_attend_to_later_ones():
    d = small_decoder("transformer")
    grid, tokens = torch.randn(1, 9, 4), torch.randint(1, 11, (1, 1, 6))
    other = tokens.clone()
    other[..., 3:] = (other[..., 3:] % 10) + 1
    before, after = d(grid, tokens).logits, d(grid, other).logits
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])


@torch.inference_mode()
def test_transformer_encoder_layers_end_in_a_normalization():
    """Its weights are 1 and 0 at first, so each cell has mean 0 and variance 1; without it, the residuals add up."""
    grid = 5 * torch.randn(2, 9, 4)
    cells = small_decoder("transformer", num_encoder_layers=2)._encode_grid(grid)
    torch.testing.assert_close(cells.mean(-1), torch.zeros(2, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(cells.var(-1, unbiased=False), torch.ones(2, 9), atol=1e-4, rtol=0)
    cells = small_decoder("transformer", num_encoder_layers=2, encoder_norm=False)._encode_grid(grid)
    assert (cells.mean(-1).abs() > 1e-2).any()
    assert not [
        name for name, _ in small_decoder("transformer", num_encoder_layers=0).named_parameters() if "encoder" in name
    ]

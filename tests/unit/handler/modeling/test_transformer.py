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

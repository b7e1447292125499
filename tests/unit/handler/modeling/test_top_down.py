"""Top-down attention (Anderson et al. 2018): equations and behavior."""

import torch

from tests.helpers.bundles import small_decoder


@torch.inference_mode()
def test_top_down_matches_the_paper():
    """Anderson et al. 2018, equations 2–7, two steps for one hypothesis, with loops over the cells."""
    d = small_decoder("top_down")
    grid, words = torch.randn(1, 9, 4), [7, 3]
    v, layer = torch.relu(grid[0] @ d.input_proj[0].weight.T + d.input_proj[0].bias), d.attention
    h1 = c1 = h2 = c2 = torch.zeros(1, 8)
    for word in words:
        seen = torch.cat([h2[0], v.mean(0), d.embedding.weight[word]])  # eq. 2
        h1, c1 = torch.nn.LSTMCell.forward(d.attention_lstm, seen.unsqueeze(0), (h1, c1))
        query = layer.query_proj(h1[0])
        energies = torch.cat([layer.score_proj(torch.tanh(layer.key_proj(cell) + query)) for cell in v])  # eq. 3
        alpha = energies.softmax(0)  # eq. 4
        mean = sum(weight * cell for weight, cell in zip(alpha, v, strict=True))  # eq. 5
        h2, c2 = torch.nn.LSTMCell.forward(d.language_lstm, torch.cat([mean, h1[0]]).unsqueeze(0), (h2, c2))  # eq. 6
    logits = d.embedding.output_weight @ h2[0] + d.embedding.output_bias  # eq. 7
    forced = d(grid, torch.tensor([[words]]))
    torch.testing.assert_close(forced.logits[-1], logits)
    torch.testing.assert_close(forced.attention[0, 0, -1], alpha)

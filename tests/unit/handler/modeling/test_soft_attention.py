"""Show, Attend and Tell (Xu et al. 2015), soft attention: equations and behavior."""

import torch

from tests.helpers.bundles import small_decoder


@torch.inference_mode()
def test_soft_attention_matches_the_paper():
    """Xu et al. 2015, one step for one hypothesis, with loops over the cells."""
    d = small_decoder("soft_attention")
    grid, token = torch.randn(1, 9, 4), 7
    a, layer = grid[0], d.attention
    h, c = torch.tanh(d.initial_hidden(a.mean(0))), torch.tanh(d.initial_cell(a.mean(0)))
    query = layer.query_proj(h)
    energies = torch.cat([layer.score_proj(torch.tanh(layer.key_proj(cell) + query)) for cell in a])  # eq. 4
    alpha = energies.exp() / energies.exp().sum()  # eq. 5
    assert d.gate.weight.shape == (1, 8)  # beta is one number
    z = torch.sigmoid(d.gate(h)) * sum(weight * cell for weight, cell in zip(alpha, a, strict=True))  # eq. 13, 4.2.1
    y = d.embedding.weight[token]
    gates = d.lstm.weight_ih @ torch.cat([y, z]) + d.lstm.bias_ih + d.lstm.weight_hh @ h + d.lstm.bias_hh
    i, f, g, o = gates.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)  # eq. 1–3
    h = torch.sigmoid(o) * torch.tanh(c)
    features = torch.tanh(y + d.output_hidden(h) + d.output_context(z))
    logits = d.embedding.output_weight @ features + d.embedding.output_bias  # eq. 7

    memory, state = d.init_state(grid)
    step = d.step(torch.tensor([[token]]), state, memory)
    torch.testing.assert_close(step.logits[0, 0], logits)
    torch.testing.assert_close(step.attention[0, 0], alpha)
    torch.testing.assert_close(step.state["hidden"][0, 0], h)
    torch.testing.assert_close(step.state["cell"][0, 0], c)


@torch.inference_mode()
def test_soft_attention_vector_gate_gates_each_channel():
    d = small_decoder("soft_attention", vector_gate=True)
    grid = torch.ones(1, 9, 4)  # so that the context is 1 in each channel, whatever the attention
    memory, state = d.init_state(grid)
    seen = []
    d.output_context.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    d.step(torch.tensor([[7]]), state, memory)
    torch.testing.assert_close(seen[0][0, 0], torch.sigmoid(d.gate(state["hidden"][0, 0])))
    assert d.gate.weight.shape == (4, 8)

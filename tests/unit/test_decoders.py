"""The decoders' equations, against the papers' written out again, and their interface."""

import pytest
import torch

from handler.decoders import DECODERS, DecoderConfig, build_decoder
from handler.decoders.base import repeat_state

CONFIG = {"embed_size": 6, "hidden_size": 6, "attention_size": 5}


def built(name, **sizes):
    torch.manual_seed(0)
    return build_decoder(DecoderConfig(name, **CONFIG | sizes), 11, 4).eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_teacher_forcing_equals_step_by_step(name, tied):
    decoder = built(name, tie_embeddings=tied)
    grid, tokens = torch.randn(3, 9, 4), torch.randint(0, 11, (3, 2, 7))
    logits, attention = decoder(grid, tokens)
    assert logits.shape == (3, 2, 7, 11)
    memory, state = decoder.start(grid)
    state = repeat_state(state, 2)
    for t in range(7):
        step = decoder.step(tokens[:, :, t], state, memory)
        state = step.state
        torch.testing.assert_close(step.logits, logits[:, :, t])
        assert all(tensor.shape[:2] == (3, 2) for tensor in state.values())
        if attention is not None:
            torch.testing.assert_close(step.attention, attention[:, :, t])
            torch.testing.assert_close(step.attention.sum(-1), torch.ones(3, 2))


@torch.inference_mode()
def test_soft_attention_is_the_papers():
    """Xu et al. 2015, one step for one hypothesis, with loops over the cells."""
    d = built("soft_attention")
    grid, token = torch.randn(1, 9, 4), 7
    a = grid[0]
    h, c = torch.tanh(d.initial_hidden(a.mean(0))), torch.tanh(d.initial_cell(a.mean(0)))
    energies = torch.stack([d.compare(torch.tanh(d.key(cell) + d.query(h))) for cell in a]).squeeze(1)  # eq. 4
    alpha = energies.exp() / energies.exp().sum()  # eq. 5
    z = torch.sigmoid(d.gate(h)) * sum(weight * cell for weight, cell in zip(alpha, a, strict=True))  # eq. 13, 4.2.1
    y = d.words.embedding.weight[token]
    i, f, g, o = (d.lstm.weight_ih @ torch.cat([y, z]) + d.lstm.bias_ih + d.lstm.weight_hh @ h + d.lstm.bias_hh).chunk(
        4
    )
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)  # eq. 1–3
    h = torch.sigmoid(o) * torch.tanh(c)
    logits = d.words.output @ torch.tanh(y + d.output_hidden(h) + d.output_context(z)) + d.words.bias  # eq. 7

    memory, state = d.start(grid)
    step = d.step(torch.tensor([[token]]), state, memory)
    torch.testing.assert_close(step.logits[0, 0], logits)
    torch.testing.assert_close(step.attention[0, 0], alpha)
    torch.testing.assert_close(step.state["hidden"][0, 0], h)
    torch.testing.assert_close(step.state["cell"][0, 0], c)


@torch.inference_mode()
def test_nic_sees_the_image_once_and_first():
    d = built("nic")
    grid = torch.randn(2, 9, 4)
    memory, state = d.start(grid)
    assert memory == {}
    hidden, cell = torch.nn.LSTMCell.forward(d.lstm, d.image(grid.mean(1)))
    torch.testing.assert_close(state["hidden"][:, 0], hidden)
    torch.testing.assert_close(state["cell"][:, 0], cell)


def test_nic_with_a_state_larger_than_the_word_vectors():
    d = built("nic", hidden_size=10)
    logits, attention = d(torch.randn(2, 9, 4), torch.randint(0, 11, (2, 1, 3)))
    assert logits.shape == (2, 1, 3, 11)
    assert attention is None


def test_an_unknown_decoder_names_those_there_are():
    with pytest.raises(ValueError, match="no decoder 'gpt': choose one of nic, soft_attention"):
        built("gpt")

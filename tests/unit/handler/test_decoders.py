"""The decoders' equations, against the papers' written out again, and their interface."""

import pytest
import torch

from handler.modeling import DECODERS, DecoderConfig, build_decoder
from handler.modeling.decoder import hypotheses_left, repeat_state
from handler.modeling.transformer import attend, sines
from handler.modeling.vocabulary import PAD_ID

CONFIG = {"embed_size": 8, "hidden_size": 8, "attention_size": 5, "layers": 2, "grid_layers": 1, "heads": 2}


def built(name, **sizes):
    torch.manual_seed(0)
    return build_decoder(DecoderConfig(name, **CONFIG | sizes), 11, 4).eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_teacher_forcing_equals_step_by_step(name, tied):
    decoder = built(name, tie_embeddings=tied)
    grid, tokens = torch.randn(3, 9, 4), torch.randint(1, 11, (3, 2, 7))
    tokens[0, 1, 5:] = tokens[:, 0, 6:] = tokens[2, 1] = PAD_ID  # of several lengths, and one that is not there
    logits, attention, location = decoder(grid, tokens)
    assert logits.shape == (int((tokens != PAD_ID).sum()), 11)
    assert location is None  # nothing is sampled but in training
    spread = torch.zeros(3, 2, 7, 11).masked_scatter((tokens != PAD_ID).unsqueeze(-1), logits)
    memory, state = decoder.init_state(grid)
    state = repeat_state(state, 2)
    for t in range(7):
        step = decoder.step(tokens[:, :, t], state, memory)
        state = step.state
        real = tokens[:, :, t] != PAD_ID
        torch.testing.assert_close(step.logits[real], spread[:, :, t][real])
        assert all(tensor.shape[:2] == (3, 2) for tensor in state.values())
        assert (step.attention is None) == (attention is None) == (name == "nic")
        if attention is not None:
            torch.testing.assert_close(step.attention[real], attention[:, :, t][real])
            torch.testing.assert_close(step.attention.sum(-1), torch.ones(3, 2))
            assert not attention[:, :, t][~real].any()


@pytest.mark.parametrize("name", DECODERS)
def test_padding_and_what_stands_beside_change_nothing(name):
    """The loss's gradient of a caption is the same alone as among longer ones."""
    decoder = built(name)
    grid, tokens = torch.randn(2, 9, 4), torch.randint(1, 11, (2, 3, 6))
    tokens[:, 1, 4:] = tokens[:, 2, 2:] = PAD_ID
    together = decoder(grid, tokens).logits
    alone = [
        decoder(grid[i : i + 1], tokens[i : i + 1, k : k + 1, :n]).logits
        for i in (0, 1)
        for k, n in ((0, 6), (1, 4), (2, 2))
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_captions_that_are_over_fall_away():
    present = torch.tensor(
        [[[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]]
    ).bool()
    assert hypotheses_left(present) == [3, 2, 2, 1]
    assert hypotheses_left(torch.zeros(1, 2, 2).bool()) == [1, 1]


@torch.inference_mode()
def test_soft_attention_is_the_papers():
    """Xu et al. 2015, one step for one hypothesis, with loops over the cells."""
    d = built("soft_attention")
    grid, token = torch.randn(1, 9, 4), 7
    a, look = grid[0], d.attention
    h, c = torch.tanh(d.initial_hidden(a.mean(0))), torch.tanh(d.initial_cell(a.mean(0)))
    energies = torch.stack([look.compare(torch.tanh(look.key(cell) + look.query(h))) for cell in a]).squeeze(1)  # eq. 4
    alpha = energies.exp() / energies.exp().sum()  # eq. 5
    z = torch.sigmoid(d.gate(h)) * sum(weight * cell for weight, cell in zip(alpha, a, strict=True))  # eq. 13, 4.2.1
    y = d.words.embedding.weight[token]
    i, f, g, o = (d.lstm.weight_ih @ torch.cat([y, z]) + d.lstm.bias_ih + d.lstm.weight_hh @ h + d.lstm.bias_hh).chunk(
        4
    )
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)  # eq. 1–3
    h = torch.sigmoid(o) * torch.tanh(c)
    logits = d.words.output @ torch.tanh(y + d.output_hidden(h) + d.output_context(z)) + d.words.bias  # eq. 7

    memory, state = d.init_state(grid)
    step = d.step(torch.tensor([[token]]), state, memory)
    torch.testing.assert_close(step.logits[0, 0], logits)
    torch.testing.assert_close(step.attention[0, 0], alpha)
    torch.testing.assert_close(step.state["hidden"][0, 0], h)
    torch.testing.assert_close(step.state["cell"][0, 0], c)


@torch.inference_mode()
def test_nic_sees_the_image_once_and_first():
    d = built("nic")
    grid = torch.randn(2, 9, 4)
    memory, state = d.init_state(grid)
    assert memory == {}
    hidden, cell = torch.nn.LSTMCell.forward(d.lstm, d.image(grid.mean(1)))
    torch.testing.assert_close(state["hidden"][:, 0], hidden)
    torch.testing.assert_close(state["cell"][:, 0], cell)


def test_nic_with_a_state_larger_than_the_word_vectors():
    d = built("nic", hidden_size=10)
    logits, attention, _ = d(torch.randn(2, 9, 4), torch.randint(1, 11, (2, 1, 3)))
    assert logits.shape == (6, 11)
    assert attention is None


@torch.inference_mode()
def test_top_down_is_the_papers():
    """Anderson et al. 2018, equations 2–7, two steps for one hypothesis, with loops over the cells."""
    d = built("top_down")
    grid, words = torch.randn(1, 9, 4), [7, 3]
    v, look = torch.relu(grid[0] @ d.project[0].weight.T + d.project[0].bias), d.attention
    h1 = c1 = h2 = c2 = torch.zeros(1, 8)
    for word in words:
        seen = torch.cat([h2[0], v.mean(0), d.words.embedding.weight[word]])  # eq. 2
        h1, c1 = torch.nn.LSTMCell.forward(d.attention_lstm, seen.unsqueeze(0), (h1, c1))
        energies = torch.stack([look.compare(torch.tanh(look.key(cell) + look.query(h1[0]))) for cell in v])  # eq. 3
        alpha = energies.squeeze(1).softmax(0)  # eq. 4
        mean = sum(weight * cell for weight, cell in zip(alpha, v, strict=True))  # eq. 5
        h2, c2 = torch.nn.LSTMCell.forward(d.language_lstm, torch.cat([mean, h1[0]]).unsqueeze(0), (h2, c2))  # eq. 6
    logits = d.words.output @ h2[0] + d.words.bias  # eq. 7
    forced = d(grid, torch.tensor([[words]]))
    torch.testing.assert_close(forced.logits[-1], logits)
    torch.testing.assert_close(forced.attention[0, 0, -1], alpha)


def test_hard_attention_looks_at_one_cell_in_training_and_at_all_of_them_in_decoding():
    d = built("hard_attention")
    attention = torch.tensor([[[0.7, 0.2, 0.1]]]).expand(1, 4000, 3)
    weights, extra = d.eval().look(attention, {})
    assert weights is attention
    assert extra == {}
    _, state = d.train().init_state(torch.zeros(2000, 9, 4))
    assert state["expected"].float().mean() == pytest.approx(0.5, abs=0.05)  # 4.1: for a half of the images
    expected = torch.arange(4000).unsqueeze(0) % 2 == 0
    weights, extra = d.look(attention, {"expected": expected})
    sampled = extra["location"] >= 0
    assert torch.equal(sampled, ~expected)
    torch.testing.assert_close(weights[~sampled], attention[~sampled])
    assert (weights[sampled].gather(1, extra["location"][sampled].unsqueeze(1)) == 1).all()
    assert (weights[sampled].sum(-1) == 1).all()
    assert (extra["location"][sampled] == 0).float().mean() == pytest.approx(0.7, abs=0.05)


def test_the_transformers_attention_is_the_papers():
    """Vaswani et al. 2017, eq. 1, by hand: query 1, keys ln 3 and 0, so weights 3:1."""
    query, key = torch.tensor([[[[1.0]]]]), torch.tensor([[[[1.0986123, 0.0]]]])
    value = torch.tensor([[[[4.0], [8.0]]]])
    looked, weights = attend(query, key, value)
    torch.testing.assert_close(weights, torch.tensor([[[[0.75, 0.25]]]]))
    torch.testing.assert_close(looked, torch.tensor([[[[5.0]]]]))
    torch.testing.assert_close(
        sines(torch.tensor([0, 1]), 4)[1], torch.tensor([0.8414710, 0.0099998, 0.5403023, 0.99995])
    )


def test_the_transformers_words_do_not_see_what_follows():
    d = built("transformer")
    grid, tokens = torch.randn(1, 9, 4), torch.randint(1, 11, (1, 1, 6))
    other = tokens.clone()
    other[..., 3:] = (other[..., 3:] % 10) + 1
    before, after = d(grid, tokens).logits, d(grid, other).logits
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])


def test_heads_have_to_share_the_vector():
    with pytest.raises(ValueError, match="multiple of heads"):
        built("transformer", embed_size=10, heads=4)


def test_an_unknown_decoder_names_those_there_are():
    with pytest.raises(ValueError, match="no decoder 'gpt': choose one of nic, soft_attention"):
        built("gpt")

"""Decoders: their equations against the papers, written out again, and their interface."""

import re

import pytest
import torch

from handler.modeling import DECODERS, TransformerConfig, build_decoder, decoder_config
from handler.modeling.decoder import expand_state, num_active_per_step
from handler.modeling.vocabulary import PAD_ID
from tests.helpers.bundles import small_config

SIZES = {"embed_dim": 8, "hidden_dim": 8, "ffn_dim": 8, "attention_dim": 5}
LAYERS = {"num_layers": 2, "num_encoder_layers": 1, "num_heads": 2}


def built(name, **sizes):
    torch.manual_seed(0)
    return build_decoder(small_config(name, **SIZES | LAYERS | sizes), 11, 4).eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_teacher_forcing_equals_step_by_step(name, tied):
    decoder = built(name, tie_embeddings=tied)
    grid, tokens = torch.randn(3, 9, 4), torch.randint(1, 11, (3, 2, 7))
    tokens[0, 1, 5:] = tokens[:, 0, 6:] = tokens[2, 1] = PAD_ID  # of several lengths, and one missing
    logits, attention, sampled_cells = decoder(grid, tokens)
    assert logits.shape == (int((tokens != PAD_ID).sum()), 11)
    assert sampled_cells is None  # cells are sampled in training only
    unpacked = torch.zeros(3, 2, 7, 11).masked_scatter((tokens != PAD_ID).unsqueeze(-1), logits)
    memory, state = decoder.init_state(grid)
    state = expand_state(state, 2)
    for t in range(7):
        step = decoder.step(tokens[:, :, t], state, memory)
        state, memory = step.state, step.memory
        real = tokens[:, :, t] != PAD_ID
        torch.testing.assert_close(step.logits[real], unpacked[:, :, t][real])
        assert all(tensor.shape[:2] == (3, 2) for tensor in state.values())
        assert (step.attention is None) == (attention is None) == (name == "nic")
        if attention is not None:
            torch.testing.assert_close(step.attention[real], attention[:, :, t][real])
            torch.testing.assert_close(step.attention.sum(-1), torch.ones(3, 2))
            assert not attention[:, :, t][~real].any()


@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_step_leaves_its_state_and_memory_unchanged(name):
    decoder = built(name)
    memory, state = decoder.init_state(torch.randn(2, 9, 4))
    state = expand_state(state, 3)
    for _ in range(2):
        before = dict(memory), dict(state)
        step = decoder.step(torch.randint(1, 11, (2, 3)), state, memory)
        assert (memory.keys(), state.keys()) == (before[0].keys(), before[1].keys())
        assert all(memory[key] is tensor for key, tensor in before[0].items())
        assert all(state[key] is tensor for key, tensor in before[1].items())
        memory, state = step.memory, step.state


@pytest.mark.parametrize("name", DECODERS)
def test_padding_and_neighbours_do_not_change_logits(name):
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


def test_num_active_per_step_drops_finished_captions():
    present = torch.tensor(
        [[[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]]
    ).bool()
    assert num_active_per_step(present) == [3, 2, 2, 1]
    assert num_active_per_step(torch.zeros(1, 2, 2).bool()) == [1, 1]


@torch.inference_mode()
def test_soft_attention_matches_the_paper():
    """Xu et al. 2015, one step for one hypothesis, with loops over the cells."""
    d = built("soft_attention")
    grid, token = torch.randn(1, 9, 4), 7
    a, layer = grid[0], d.attention
    h, c = torch.tanh(d.initial_hidden(a.mean(0))), torch.tanh(d.initial_cell(a.mean(0)))
    query = layer.query_proj(h)
    energies = torch.cat([layer.score_proj(torch.tanh(layer.key_proj(cell) + query)) for cell in a])  # eq. 4
    alpha = energies.exp() / energies.exp().sum()  # eq. 5
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
def test_nic_feeds_the_image_first():
    d = built("nic")
    grid = torch.randn(2, 9, 4)
    memory, state = d.init_state(grid)
    assert memory == {}
    hidden, cell = torch.nn.LSTMCell.forward(d.lstm, d.image_proj(grid.mean(1)))
    torch.testing.assert_close(state["hidden"][:, 0], hidden)
    torch.testing.assert_close(state["cell"][:, 0], cell)


def test_nic_with_larger_state_projects_its_output():
    d = built("nic", hidden_dim=10)
    logits, attention, _ = d(torch.randn(2, 9, 4), torch.randint(1, 11, (2, 1, 3)))
    assert logits.shape == (6, 11)
    assert attention is None


@torch.inference_mode()
def test_top_down_matches_the_paper():
    """Anderson et al. 2018, equations 2–7, two steps for one hypothesis, with loops over the cells."""
    d = built("top_down")
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


def test_hard_attention_samples_one_cell_in_training_and_none_in_decoding():
    d = built("hard_attention")
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
    d = built("hard_attention").train()
    tokens = torch.randint(1, 11, (40, 2, 4))
    sampled_cells = d(torch.randn(40, 9, 4), tokens).sampled_cells
    assert sampled_cells.shape == tokens.shape
    sampled = sampled_cells >= 0
    assert torch.equal(sampled, sampled[:, :1, :1].expand_as(sampled))  # an image's context is sampled always or never
    assert sampled.any()
    assert not sampled.all()


def test_transformer_tokens_do_not_attend_to_later_ones():
    d = built("transformer")
    grid, tokens = torch.randn(1, 9, 4), torch.randint(1, 11, (1, 1, 6))
    other = tokens.clone()
    other[..., 3:] = (other[..., 3:] % 10) + 1
    before, after = d(grid, tokens).logits, d(grid, other).logits
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])


def test_decoder_config_builds_the_config_of_the_architecture():
    config = decoder_config("transformer", embed_dim=24, num_heads=6)
    assert config == TransformerConfig(embed_dim=24, num_heads=6)
    assert config.name == "transformer"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "gpt"}, "Unknown decoder 'gpt'. Valid decoders: nic, soft_attention, hard_attention, top_down, tra"),
        ({}, "Unknown decoder ''. Valid decoders: nic,"),
        (
            {"name": "nic", "num_layers": 3},
            "The decoder 'nic' has no field 'num_layers'. "
            "Valid fields: embed_dim, dropout, tie_embeddings, hidden_dim.",
        ),
        ({"name": "nic", "embed_dim": 0}, "embed_dim must be an integer of at least 1, not 0."),
        ({"name": "nic", "hidden_dim": "wide"}, "hidden_dim must be an integer of at least 1, not 'wide'."),
        ({"name": "nic", "dropout": 1}, "dropout must be a number from 0 to below 1, not 1."),
        ({"name": "nic", "tie_embeddings": 1}, "tie_embeddings must be true or false, not 1."),
        ({"name": "transformer", "num_encoder_layers": -1}, "num_encoder_layers must be an integer of at least 0"),
        ({"name": "transformer", "embed_dim": 10, "num_heads": 4}, "embed_dim must be a multiple of num_heads and of"),
    ],
)
def test_decoder_config_with_invalid_fields_raises(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        decoder_config(**fields)

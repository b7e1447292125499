"""The interface of decoders and their configs, checked for every architecture."""

import re

import pytest
import torch

from handler.modeling import DECODERS, TransformerConfig, decoder_config
from handler.modeling.decoder import expand_state, num_active_per_step
from handler.modeling.vocabulary import PAD_ID
from tests.helpers.bundles import small_decoder


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_teacher_forcing_equals_step_by_step(name, tied):
    decoder = small_decoder(name, tie_embeddings=tied)
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
        assert (step.attention is None) == (attention is None) == (not decoder.has_attention)
        if attention is not None:
            torch.testing.assert_close(step.attention[real], attention[:, :, t][real])
            torch.testing.assert_close(step.attention.sum(-1), torch.ones(3, 2))
            assert not attention[:, :, t][~real].any()


@pytest.mark.parametrize("name", DECODERS)
@torch.inference_mode()
def test_step_leaves_its_state_and_memory_unchanged(name):
    decoder = small_decoder(name)
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
    decoder = small_decoder(name)
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


def test_decoder_config_builds_the_config_of_the_architecture():
    config = decoder_config("transformer", embed_dim=24, num_heads=6)
    assert config == TransformerConfig(embed_dim=24, num_heads=6)
    assert config.name == "transformer"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "gpt"}, f"Unknown decoder 'gpt'. Valid decoders: {', '.join(DECODERS)}"),
        ({}, "Unknown decoder ''. Valid decoders: "),
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

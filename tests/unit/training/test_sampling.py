"""Captions sampled for self-critical training, with every decoder."""

import numpy as np
import pytest
import torch

from handler.modeling import DECODERS, build_decoder
from handler.modeling.vocabulary import build_vocabulary
from tests.helpers.bundles import small_config
from training.data.dataset import collate_captions
from training.losses import log_policy, self_critical_loss
from training.objectives import sample_captions

VOCABULARY = build_vocabulary(["a dog runs", "a cat sits"], 1)
SIZE = len(VOCABULARY)


@pytest.fixture(scope="module", params=sorted(DECODERS))
def decoder(request):
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "hidden_dim": 8, "ffn_dim": 8, "attention_dim": 4, "num_layers": 1, "num_heads": 2}
    return build_decoder(small_config(request.param, **sizes), SIZE, 6).eval()


def test_sample_captions_first_tokens_follow_the_policy(decoder):
    grid = torch.randn(1, 4, 6)
    memory, state = decoder.init_state(grid)
    with torch.no_grad():
        first = log_policy(
            decoder.step(torch.tensor([[VOCABULARY.bos_id]]), state, memory).logits[0, 0], VOCABULARY, 0.6
        ).exp()
    options = {"samples": 2000, "temperature": 0.6, "max_length": 1}
    torch.manual_seed(3)
    [samples] = sample_captions(decoder, grid, VOCABULARY, **options)
    counts = np.bincount([ids[0] for ids in samples], minlength=SIZE) / 2000
    np.testing.assert_allclose(counts, first.numpy(), atol=0.05)
    torch.manual_seed(3)
    assert sample_captions(decoder, grid, VOCABULARY, **options) == [samples]


def test_sample_captions_end_or_are_truncated_and_are_sorted_by_length(decoder):
    torch.manual_seed(1)
    samples = sample_captions(decoder, torch.randn(3, 4, 6), VOCABULARY, samples=6, temperature=1.0, max_length=4)
    assert len(samples) == 3
    for captions in samples:
        assert len(captions) == 6
        assert [len(ids) for ids in captions] == sorted((len(ids) for ids in captions), reverse=True)
        for ids in captions:
            *tokens, last = ids
            assert VOCABULARY.eos_id not in tokens
            assert len(tokens) == 3 if last != VOCABULARY.eos_id else len(tokens) <= 4
            assert not {VOCABULARY.pad_id, VOCABULARY.bos_id, VOCABULARY.unk_id} & set(ids)


def test_sample_captions_greedy_equals_teacher_forced_argmax(decoder):
    grid = torch.randn(2, 4, 6)
    greedy = sample_captions(decoder, grid, VOCABULARY, samples=1, temperature=0, max_length=5)
    for row, [ids] in enumerate(greedy):
        inputs, _ = collate_captions([[ids]], 1, VOCABULARY)
        with torch.no_grad():
            again = log_policy(decoder(grid[row : row + 1], inputs).logits, VOCABULARY, 1.0).argmax(-1).tolist()
        assert again == ids


def test_self_critical_loss_step_raises_likelihood_of_rewarded_caption(decoder):
    grid = torch.randn(1, 4, 6)
    captions = [[[*VOCABULARY.encode(words.split()), VOCABULARY.eos_id] for words in ("a dog runs", "a cat")]]
    inputs, targets = collate_captions(captions, 2, VOCABULARY)
    mask = targets != VOCABULARY.pad_id

    def likelihood():
        logprobs = log_policy(decoder(grid, inputs).logits, VOCABULARY, 0.6)
        target_logprobs = logprobs.gather(1, targets[mask].unsqueeze(1)).squeeze(1)
        return target_logprobs[:4].sum().item(), target_logprobs[4:].sum().item()

    before = likelihood()
    loss = self_critical_loss(
        decoder(grid, inputs).logits,
        targets[mask],
        torch.tensor([[1.0, -1.0]]),
        mask,
        VOCABULARY,
        temperature=0.6,
        tokens=7,
    )
    gradients = torch.autograd.grad(loss, list(decoder.parameters()), allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(decoder.parameters(), gradients, strict=True):
            if gradient is not None:
                parameter -= 0.01 * gradient
    after = likelihood()
    assert after[0] > before[0]
    assert after[1] < before[1]

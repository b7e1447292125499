"""Self-critical training's parts, worked by hand."""

import math

import numpy as np
import pytest
import torch

from handler.modeling import build_decoder
from handler.modeling.vocabulary import build_vocabulary
from tests.helpers.bundles import small_config
from training.data.dataset import collate_captions
from training.self_critical import advantages, policy, sample_captions, self_critical_loss

VOCABULARY = build_vocabulary(["a dog runs", "a cat sits"], 1)
SIZE = len(VOCABULARY)


@pytest.fixture(scope="module", params=["nic", "soft_attention", "hard_attention", "top_down", "transformer"])
def decoder(request):
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "hidden_dim": 8, "ffn_dim": 8, "attention_dim": 4, "num_layers": 1, "num_heads": 2}
    return build_decoder(small_config(request.param, **sizes), SIZE, 6).eval()


def test_leave_one_out_compares_with_the_others():
    found = advantages(np.array([[1.0, 2.0, 6.0]]), None)
    np.testing.assert_allclose(found, [[1 - 4, 2 - 3.5, 6 - 1.5]])  # the others' means are 4, 3.5 and 1.5


def test_the_greedy_baseline():
    np.testing.assert_allclose(
        advantages(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1.5, 1.0])), [[-0.5, 0.5], [2, -1]]
    )


def test_the_policy_never_says_what_may_not_be_said():
    probabilities = policy(torch.zeros(SIZE), VOCABULARY, 0.5).exp()
    assert probabilities[[VOCABULARY.pad_id, VOCABULARY.bos_id, VOCABULARY.unk_id]].sum() == 0
    assert probabilities.sum().item() == pytest.approx(1)
    two = policy(torch.tensor([0.0, 0, 1, 0, 2] + [-99.0] * (SIZE - 5)), VOCABULARY, 0.5)
    assert (two[4] - two[2]).item() == pytest.approx(2.0)  # a difference of 1, over the temperature 0.5


def test_the_loss_by_hand():
    logits = torch.full((3, SIZE), -99.0)
    logits[:, VOCABULARY.eos_id], logits[:, 4] = 0.0, math.log(3)  # at temperature 1: 1/4 and 3/4
    targets = torch.tensor([4, VOCABULARY.eos_id, VOCABULARY.eos_id])
    present = torch.tensor([[[True, True], [True, False]]])  # captions "4 <end>" and "<end>"
    loss = self_critical_loss(
        logits, targets, torch.tensor([[2.0, -1.0]]), present, VOCABULARY, temperature=1.0, tokens=3
    )
    assert loss.item() == pytest.approx(-(2 * (math.log(0.75) + math.log(0.25)) - math.log(0.25)) / 3, abs=1e-5)


def test_samples_follow_the_policy(decoder):
    """The samples' first words come as often as their probabilities say; the same seed gives the same samples."""
    grid = torch.randn(1, 4, 6)
    memory, state = decoder.init_state(grid)
    with torch.no_grad():
        first = policy(
            decoder.step(torch.tensor([[VOCABULARY.bos_id]]), state, memory).logits[0, 0], VOCABULARY, 0.6
        ).exp()
    options = {"samples": 4000, "temperature": 0.6, "max_words": 1}
    torch.manual_seed(3)
    [drawn] = sample_captions(decoder, grid, VOCABULARY, **options)
    counts = np.bincount([ids[0] for ids in drawn], minlength=SIZE) / 4000
    np.testing.assert_allclose(counts, first.numpy(), atol=0.04)
    torch.manual_seed(3)
    assert sample_captions(decoder, grid, VOCABULARY, **options) == [drawn]


def test_samples_end_or_are_cut_and_come_longest_first(decoder):
    torch.manual_seed(1)
    drawn = sample_captions(decoder, torch.randn(3, 4, 6), VOCABULARY, samples=6, temperature=1.0, max_words=4)
    assert len(drawn) == 3
    for captions in drawn:
        assert len(captions) == 6
        assert [len(ids) for ids in captions] == sorted((len(ids) for ids in captions), reverse=True)
        for ids in captions:
            *words, last = ids
            assert VOCABULARY.eos_id not in words
            assert len(words) == 3 if last != VOCABULARY.eos_id else len(words) <= 4
            assert not {VOCABULARY.pad_id, VOCABULARY.bos_id, VOCABULARY.unk_id} & set(ids)


def test_greedy_is_what_the_likeliest_tokens_give(decoder):
    grid = torch.randn(2, 4, 6)
    found = sample_captions(decoder, grid, VOCABULARY, samples=1, temperature=0, max_words=5)
    for row, [ids] in enumerate(found):
        inputs, _ = collate_captions([[ids]], 1, VOCABULARY)
        with torch.no_grad():
            again = policy(decoder(grid[row : row + 1], inputs).logits, VOCABULARY, 1.0).argmax(-1).tolist()
        assert again == ids


def test_the_reward_raises_what_is_better_than_the_rest(decoder):
    """A step on the loss makes the well-rewarded caption likelier and the other less likely."""
    grid = torch.randn(1, 4, 6)
    captions = [[[*VOCABULARY.encode(words.split()), VOCABULARY.eos_id] for words in ("a dog runs", "a cat")]]
    inputs, targets = collate_captions(captions, 2, VOCABULARY)
    present = targets != VOCABULARY.pad_id

    def likelihood():
        logprobs = policy(decoder(grid, inputs).logits, VOCABULARY, 0.6)
        of_target = logprobs.gather(1, targets[present].unsqueeze(1)).squeeze(1)
        return of_target[:4].sum().item(), of_target[4:].sum().item()

    before = likelihood()
    loss = self_critical_loss(
        decoder(grid, inputs).logits, targets[present], torch.tensor([[1.0, -1.0]]), present, VOCABULARY,
        temperature=0.6, tokens=7,
    )  # fmt: skip
    gradients = torch.autograd.grad(loss, list(decoder.parameters()), allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(decoder.parameters(), gradients, strict=True):
            if gradient is not None:
                parameter -= 0.01 * gradient
    after = likelihood()
    assert after[0] > before[0]
    assert after[1] < before[1]

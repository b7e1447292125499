"""Sampled tokens follow the probabilities of the model, and a seed decides them."""

import math

import pytest
import torch

from handler.generation import GenerationConfig, generate
from handler.generation.sampling import sample_tokens, uniform_noise
from tests.helpers.table_decoder import END, A, B, C, TableDecoder, probability_table, random_tables, vocabulary_of

# One word and the end: a 0.5, b 0.3, c 0.2; raised to 1/0.5 and normalized: 25/38, 9/38, 4/38.
ONE_WORD = probability_table({1: {A: 0.5, B: 0.3, C: 0.2}, A: {END: 1.0}, B: {END: 1.0}, C: {END: 1.0}}, 3)


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"temperature": 1.0}, {A: 0.5, B: 0.3, C: 0.2}),
        ({"temperature": 0.5}, {A: 25 / 38, B: 9 / 38, C: 4 / 38}),
        ({"temperature": 1.0, "top_p": 0.6}, {A: 0.5 / 0.8, B: 0.3 / 0.8}),  # a has less than 0.6
        ({"temperature": 1.0, "top_p": 0.5}, {A: 1.0}),
        ({"temperature": 0.01}, {A: 1.0}),
    ],
)
def test_samples_follow_the_probabilities(options, shares):
    count = 4000
    images = [GenerationConfig(seed=seed, **options) for seed in range(count)]
    found = generate(TableDecoder(7), ONE_WORD.expand(count, -1, -1), images, vocabulary_of(3))
    sampled = [best.token_ids for [best] in found]
    assert {len(ids) for ids in sampled} == {1}
    for token in (A, B, C):
        share, expected = sampled.count([token]) / count, shares.get(token, 0.0)
        # Five standard deviations of a binomial; a token without probability never occurs.
        assert abs(share - expected) <= 5 * math.sqrt(expected * (1 - expected) / count)
    for [best] in found:  # logprobs are those of the model, without temperature
        assert math.exp(best.logprobs[0]) == pytest.approx({A: 0.5, B: 0.3, C: 0.2}[best.token_ids[0]], rel=1e-5)


def test_seed_decides_the_samples():
    vocabulary = vocabulary_of(3)
    tables = random_tables(1, 13, vocabulary, 2)

    def sample(**options):
        [found] = generate(
            TableDecoder(7), tables, [GenerationConfig(temperature=1.0, max_length=12, **options)], vocabulary
        )
        return [h.token_ids for h in found]

    assert sample(seed=7, num_captions=8) == sample(seed=7, num_captions=8)
    assert sample(seed=7, num_captions=8) != sample(seed=8, num_captions=8)
    assert len({tuple(ids) for ids in sample(seed=7, num_captions=8)}) > 1
    # More captions do not change the first ones.
    assert {tuple(ids) for ids in sample(seed=7, num_captions=3)} <= {
        tuple(ids) for ids in sample(seed=7, num_captions=8)
    }
    assert len({str(sample(num_captions=8)) for _ in range(5)}) > 1  # random without a seed


def test_sample_tokens_inverts_the_cumulative_distribution():
    """Probabilities 0.5, 0.2, 0.3, sorted 0.5, 0.3, 0.2: noise below 0.5 gives token 0, below 0.8 token 2, else 1."""
    logprobs = torch.tensor([0.5, 0.2, 0.3]).log().expand(1, 6, 3)
    noise = torch.tensor([[0.0, 0.49, 0.51, 0.79, 0.81, 0.9999999]])
    one = torch.ones(1)
    assert sample_tokens(logprobs, one, one, noise).tolist() == [[0, 0, 2, 2, 1, 1]]
    # A nucleus of 0.6 keeps tokens 0 and 2, with 0.625 and 0.375 of the probability.
    assert sample_tokens(logprobs, one, torch.tensor([0.6]), noise).tolist() == [[0, 0, 0, 2, 2, 2]]
    # At temperature 0.5 the probabilities are 25/38, 4/38 and 9/38.
    assert sample_tokens(logprobs, torch.tensor([0.5]), one, noise).tolist() == [[0, 0, 0, 2, 2, 1]]


def test_sample_tokens_never_returns_a_token_that_is_not_allowed():
    logprobs = torch.tensor([[[-1.0, float("-inf"), -2.0]]])
    for noise in (0.0, 0.5, 1 - 2**-24):
        [[token]] = sample_tokens(logprobs, torch.ones(1), torch.ones(1), torch.tensor([[noise]])).tolist()
        assert token != 1


def test_uniform_noise_depends_on_seed_and_caption_only():
    config = GenerationConfig(temperature=1.0, seed=3, num_captions=2, max_length=4)
    alone = uniform_noise([config], 2, 5)
    together = uniform_noise([GenerationConfig(), config], 4, 9)
    assert torch.equal(together[1, :2, :5], alone[0])
    assert not torch.equal(alone[0, 0], alone[0, 1])
    assert not together[0].any()  # searches
    assert not together[1, 2:].any()  # beyond its captions
    assert not together[1, :, 5:].any()  # beyond its length
    assert ((alone >= 0) & (alone < 1)).all()

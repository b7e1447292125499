"""Which tokens a hypothesis may not continue with, on a vocabulary whose masks can be read."""

import math

import pytest
import torch

from handler.generation import GenerationConfig
from handler.generation.constraints import Constraints, content_words
from handler.modeling.vocabulary import SPECIAL, Vocabulary

END = 2
VOCABULARY = Vocabulary((*SPECIAL, "a", "dog", "t-shirt", "'s", "8", "perro"))
A, DOG, SHIRT, S, EIGHT, PERRO = range(4, 10)
CPU = torch.device("cpu")


def allowed(configs: list[GenerationConfig], sequences: list[list[list[int]]]) -> list[list[list[int]]]:
    """Return the tokens that each beam of each image may continue with, given its tokens so far."""
    constraints = Constraints(configs, VOCABULARY, len(sequences[0]), CPU)
    stay = torch.arange(len(sequences[0])).expand(len(configs), -1)
    for tokens in torch.tensor(sequences).unbind(2):
        constraints.extend(stay, tokens)
    logprobs = constraints.apply(torch.zeros(*stay.shape, len(VOCABULARY)), len(sequences[0][0]))
    return [[beam.isfinite().nonzero().flatten().tolist() for beam in image] for image in logprobs]


def test_content_words_are_words_with_letters_that_are_no_function_words():
    expected = [False] * 4 + [False, True, True, False, False, True]
    assert content_words(VOCABULARY, CPU).tolist() == expected


def test_content_words_are_computed_once_for_a_vocabulary():
    assert content_words(VOCABULARY, CPU) is content_words(VOCABULARY, CPU)


def test_no_repeat_words_bans_the_content_words_of_each_beam():
    [beams] = allowed([GenerationConfig(no_repeat_words=True)], [[[A, DOG, A], [SHIRT, EIGHT, PERRO]]])
    assert beams == [[END, A, SHIRT, S, EIGHT, PERRO], [END, A, DOG, S, EIGHT]]


def test_constraints_of_an_image_hold_for_its_rows_alone():
    configs = [
        GenerationConfig(),
        GenerationConfig(no_repeat_words=True),
        GenerationConfig(no_repeat_ngram=2),
        GenerationConfig(no_repeat_ngram=1),
        GenerationConfig(min_length=6),
        GenerationConfig(max_length=5),
    ]
    words = [A, DOG, SHIRT, S, EIGHT, PERRO]
    sequence = [A, DOG, SHIRT, A, A]  # `a dog`, `a a` must not recur as bigrams
    assert [beams for [beams] in allowed(configs, [[sequence]] * 6)] == [
        [END, *words],
        [END, A, S, EIGHT, PERRO],
        [END, SHIRT, S, EIGHT, PERRO],
        [END, S, EIGHT, PERRO],
        words,
        [END],
    ]


def test_constraints_follow_reordered_beams_and_dropped_images():
    config = GenerationConfig(no_repeat_words=True)
    constraints = Constraints([config, config], VOCABULARY, 2, CPU)
    constraints.extend(torch.tensor([[0, 1], [0, 1]]), torch.tensor([[A, A], [DOG, SHIRT]]))
    constraints.extend(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[A, A], [A, PERRO]]))
    constraints.select_rows(torch.tensor([1]))
    assert constraints.generated.tolist() == [[[SHIRT, A], [DOG, PERRO]]]
    logprobs = constraints.apply(torch.zeros(1, 2, len(VOCABULARY)), 2)
    assert logprobs[0].isinf().nonzero().tolist() == [
        *([0, token] for token in (0, 1, 3, SHIRT)),
        *([1, token] for token in (0, 1, 3, DOG, PERRO)),
    ]


@pytest.mark.parametrize("option", [{"no_repeat_words": True}, {"no_repeat_ngram": 1}, {"min_length": 3}])
def test_apply_keeps_the_log_probability_of_allowed_tokens(option):
    constraints = Constraints([GenerationConfig(**option)], VOCABULARY, 1, CPU)
    constraints.extend(torch.tensor([[0]]), torch.tensor([[DOG]]))
    before = torch.arange(-10.0, 0.0).view(1, 1, 10)
    after = constraints.apply(before.clone(), 1)
    assert torch.equal(after[after.isfinite()], before[after.isfinite()])
    assert after[0, 0, SHIRT].item() == -4.0
    assert not math.isfinite(after[0, 0, 0].item())

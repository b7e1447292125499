"""Scoring a bundle from the command line."""

import pytest

from handler.generation import GenerationConfig
from tests.helpers.commands import run_module_in_process
from training.validate import SIGNED, describe_decoding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "samples", "photos"], "nowhere is no model bundle: captioner.json is missing."),
        (["pretrained", "samples", "val"], "There is no split 'val' in samples"),
        (["pretrained", "samples", "photos", "--beam-size=0"], "beam_size"),
    ],
)
def test_validate_mistake_in_arguments_gives_one_sentence(arguments, message):
    code, _, errors = run_module_in_process("training.validate", *arguments)
    assert code == 1
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"beam_size": 3}, "beam:3|lp:0.7|length:1-20|ngram:0"),
        (
            {"temperature": 0.5, "top_p": 0.9, "seed": 4, "min_length": 2},
            "temperature:0.5|top_p:0.9|seed:4|lp:0.7|length:2-20|ngram:0",
        ),
    ],
)
def test_describe_decoding_names_search_or_sampling(options, expected):
    assert describe_decoding(GenerationConfig(**options)) == expected


def test_describe_decoding_names_the_ban_of_repeated_words():
    described = describe_decoding(GenerationConfig(no_repeat_words=True))
    assert described == "beam:5|lp:0.7|length:1-20|ngram:0|no_repeat_words:True"


def test_describe_decoding_names_a_new_option_that_is_set(monkeypatch):
    monkeypatch.setattr("training.validate.SIGNED", SIGNED - {"no_repeat_ngram"})  # as if it had been added just now
    assert describe_decoding(GenerationConfig()) == "beam:5|lp:0.7|length:1-20|ngram:0"
    assert describe_decoding(GenerationConfig(no_repeat_ngram=3)).endswith("|no_repeat_ngram:3")

"""Options as they come in JSON and in forms."""

import pytest

from handler.errors import OptionOutOfRange, UnknownOption
from handler.generation import GENERATION_OPTIONS, GenerationConfig
from handler.serving.option_parsing import format_value, parse_options

DEFAULTS = GenerationConfig()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, DEFAULTS),
        ({"beam_size": 10, "num_captions": "10"}, GenerationConfig(beam_size=10, num_captions=10)),
        ({"length_penalty": b"0"}, GenerationConfig(length_penalty=0.0)),
        ({"length_penalty": 1}, GenerationConfig(length_penalty=1.0)),
        ({"min_length": bytearray(b"5"), "max_length": 5.0}, GenerationConfig(min_length=5, max_length=5)),
        ({"no_repeat_ngram": 3, "attention": True}, GenerationConfig(no_repeat_ngram=3, attention=True)),
        ({"temperature": b"0.5", "top_p": 0.9, "seed": "7"}, GenerationConfig(temperature=0.5, top_p=0.9, seed=7)),
        ({"temperature": 1, "num_captions": 10}, GenerationConfig(temperature=1.0, num_captions=10)),
        ({"no_repeat_words": "true"}, GenerationConfig(no_repeat_words=True)),
        (
            {"num_beam_groups": b"5", "diversity_penalty": "1.5"},
            GenerationConfig(num_beam_groups=5, diversity_penalty=1.5),
        ),
        ({"attention": bytearray(b"false")}, DEFAULTS),
    ],
)
def test_parse_options_returns_typed_values(fields, expected):
    assert parse_options(fields, DEFAULTS) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beam_size": 0}, "beam_size must be an integer from 1 to 10, not 0."),
        ({"beam_size": 11}, "beam_size must be an integer from 1 to 10, not 11."),
        ({"beam_size": 2.5}, "beam_size must be an integer from 1 to 10, not 2.5."),
        ({"beam_size": True}, "beam_size must be an integer from 1 to 10, not true."),
        ({"beam_size": b"\xff"}, "beam_size must be an integer from 1 to 10, not \ufffd."),
        ({"beam_size": [[[1]]]}, "beam_size must be an integer from 1 to 10, not a list."),
        ({"beam_size": None}, "beam_size must be an integer from 1 to 10, not null."),
        ({"beam_size": "9" * 400}, f"beam_size must be an integer from 1 to 10, not {'9' * 40}…."),
        ({"length_penalty": "nan"}, "length_penalty must be a number from 0 to 2, not nan."),
        ({"length_penalty": "inf"}, "length_penalty must be a number from 0 to 2, not inf."),
        ({"beam_size": b""}, "beam_size must be an integer from 1 to 10, not ''."),
        ({"beam_size": "1_0"}, "beam_size must be an integer from 1 to 10, not 1_0."),
        ({"max_length": 51}, "max_length must be an integer from 1 to 50, not 51."),
        ({"attention": "yes"}, "attention must be true or false, not yes."),
        ({"attention": 1}, "attention must be true or false, not 1."),
        ({"temperature": 6}, "temperature must be 0 or a number from 0.01 to 5, not 6."),
        ({"top_p": 0}, "top_p must be a number from 0.01 to 1, not 0."),
        ({"top_p": 0.5}, "top_p needs sampling: set temperature above 0."),
        ({"seed": 2**32}, "seed must be an integer from 0 to 4294967295, not 4294967296."),
        ({"min_length": 21}, "min_length (21) must not exceed max_length (20)."),
        ({"num_beam_groups": 3}, "beam_size (5) must be a multiple of num_beam_groups (3)."),
        ({"num_beam_groups": 5, "temperature": 1}, "num_beam_groups needs beam search: set temperature to 0."),
        ({"diversity_penalty": 5.1}, "diversity_penalty must be a number from 0 to 5, not 5.1."),
        ({"num_captions": 6}, "num_captions (6) must not exceed beam_size (5): beam search finds no more captions."),
    ],
)
def test_parse_options_with_an_invalid_value_says_what_is_valid(fields, message):
    with pytest.raises(OptionOutOfRange) as caught:
        parse_options(fields, DEFAULTS)
    assert str(caught.value) == message


def test_parse_options_with_an_unknown_option_lists_the_valid_ones():
    with pytest.raises(
        UnknownOption, match=r"Unknown option 'beams'\. Valid options: beam_size, .* in the field 'image'"
    ):
        parse_options({"beams": 3}, DEFAULTS)


@pytest.mark.parametrize("option", GENERATION_OPTIONS.values(), ids=lambda option: option.name)
def test_parse_options_accepts_the_bounds_of_every_option(option):
    others = {"top_p": {"temperature": 1}, "min_length": {"max_length": 50}}
    others |= {"num_captions": {"beam_size": 10}, "num_beam_groups": {"beam_size": 10}}
    for value in ("true", "false") if option.type is bool else (option.min, option.max, str(option.max)):
        parsed = parse_options(others.get(option.name, {}) | {option.name: value}, DEFAULTS)
        assert type(getattr(parsed, option.name)) is option.type


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("", "''"),
        (b"\xff", "\ufffd"),
        ({}, "a JSON object"),
        ("x" * 50, "x" * 40 + "…"),
    ],
)
def test_format_value_is_short_and_printable(value, text):
    assert format_value(value) == text

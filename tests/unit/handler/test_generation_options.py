"""The table of decoding options, the checks derived from it, and the documentation of it.

python -m tests.unit.handler.test_generation_options   # writes the table into docs/api.md
"""

import math
import re
from dataclasses import fields
from pathlib import Path

import pytest

from handler.generation import GENERATION_OPTIONS, GenerationConfig

API_PAGE = Path(__file__).parents[3] / "docs" / "api.md"
MARKED = re.compile(r"(?<=<!-- generation options: begin -->\n).*?(?=<!-- generation options: end -->)", re.S)


def options_table() -> str:
    """The table of docs/api.md."""
    lines = ["", "| option | values | default | meaning |", "|---|---|---|---|"]
    for option in GENERATION_OPTIONS.values():
        default = "random" if option.default is None else f"{option.default}".lower().removesuffix(".0")
        lines.append(f"| `{option.name}` | {option.range} | {default} | {option.help} |")
    return "\n".join([*lines, "", ""])


def test_docs_table_matches_the_options():
    documented = MARKED.search(API_PAGE.read_text(encoding="utf-8"))
    assert documented, "the comments around the table are missing"
    assert documented[0] == options_table(), f"run python -m {__spec__.name}"


def test_table_describes_every_field():
    assert list(GENERATION_OPTIONS) == [field.name for field in fields(GenerationConfig)]
    for option in GENERATION_OPTIONS.values():
        assert option.help.endswith(".")
        assert (option.type is bool) == (option.min is None) == (option.max is None)
        assert option.default == getattr(GenerationConfig(), option.name)
        assert type(option.default) in (option.type, type(None))
        if option.min is not None:
            assert type(option.min) is type(option.max) is option.type


def test_every_value_that_the_table_accepts_is_a_valid_config():
    # top_p needs sampling, min_length a max_length, groups of beams a beam search
    sampled, searched = {"temperature": 1.0, "max_length": 50}, {"beam_size": 10}
    for option in GENERATION_OPTIONS.values():
        beside = searched if option.name in ("num_beam_groups", "diversity_penalty") else sampled
        for value in (option.min, option.max, *([0.0] if option.allow_zero else [])):
            if value is not None:
                assert option.accepts(value)
                alone = {"min_length": 1} if option.name == "max_length" else {}
                assert getattr(GenerationConfig(**beside | alone | {option.name: value}), option.name) == value


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("beam_size", 10, True),
        ("beam_size", 11, False),
        ("beam_size", 2.5, False),
        ("beam_size", math.inf, False),
        ("length_penalty", 0.0, True),
        ("length_penalty", math.nan, False),
        ("temperature", 0, True),
        ("temperature", 0.005, False),
        ("temperature", 0.01, True),
        ("temperature", math.inf, False),
        ("attention", True, True),
        ("attention", 1, False),
    ],
)
def test_accepts_knows_the_range(name, value, accepted):
    assert GENERATION_OPTIONS[name].accepts(value) is accepted


@pytest.mark.parametrize(
    ("name", "requirement", "short"),
    [
        ("beam_size", "an integer from 1 to 10", "1–10"),
        ("length_penalty", "a number from 0 to 2", "0–2"),
        ("temperature", "0 or a number from 0.01 to 5", "0, 0.01–5"),
        ("seed", "an integer from 0 to 4294967295", "0–4294967295"),
        ("attention", "true or false", "true, false"),
    ],
)
def test_requirement_and_range_are_readable(name, requirement, short):
    assert (GENERATION_OPTIONS[name].requirement, GENERATION_OPTIONS[name].range) == (requirement, short)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or at least 0.01, not -1.0."),
        ({"temperature": 1e-39}, "temperature must be 0 or at least 0.01, not 1e-39."),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p must be at least 0.01, not 0.0."),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p must be at most 1, not 1.1."),
        ({"top_p": 0.9}, "top_p needs sampling: set temperature above 0."),
        ({"seed": -1}, "seed must be at least 0, not -1."),
        ({"beam_size": 0}, "beam_size must be at least 1, not 0."),
        ({"num_captions": 0}, "num_captions must be at least 1, not 0."),
        (
            {"num_captions": 6},
            r"num_captions \(6\) must not exceed beam_size \(5\): .* no more captions.",
        ),
        ({"num_beam_groups": 0}, "num_beam_groups must be at least 1, not 0."),
        ({"num_beam_groups": 2}, r"beam_size \(5\) must be a multiple of num_beam_groups \(2\)."),
        ({"num_beam_groups": 5, "temperature": 1.0}, "num_beam_groups needs beam search: set temperature to 0."),
        ({"diversity_penalty": -1.0}, "diversity_penalty must be at least 0, not -1.0."),
        ({"max_length": 0}, "max_length must be at least 1, not 0."),
        ({"min_length": 21}, r"min_length \(21\) must not exceed max_length \(20\)."),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram must be at least 0, not -1."),
        ({"length_penalty": math.nan}, "length_penalty must be at least 0, not nan."),
        ({"length_penalty": math.inf}, "length_penalty must be at least 0, not inf."),
    ],
)
def test_config_with_an_invalid_value_names_it(values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        GenerationConfig(**values)


def test_config_accepts_more_than_a_request_may_ask_for():
    assert GenerationConfig(beam_size=400, max_length=99).num_beams == 400


@pytest.mark.parametrize(
    ("config", "do_sample", "num_beams", "beams_per_group"),
    [
        (GenerationConfig(beam_size=3, num_captions=2), False, 3, 3),
        (GenerationConfig(beam_size=6, num_beam_groups=3), False, 6, 2),
        (GenerationConfig(beam_size=3, num_captions=7, temperature=1.0), True, 7, 7),
    ],
)
def test_sampling_keeps_one_hypothesis_a_caption(config, do_sample, num_beams, beams_per_group):
    assert (config.do_sample, config.num_beams, config.beams_per_group) == (do_sample, num_beams, beams_per_group)


if __name__ == "__main__":
    page = API_PAGE.read_text(encoding="utf-8")
    API_PAGE.write_text(MARKED.sub(lambda _: options_table(), page), encoding="utf-8")

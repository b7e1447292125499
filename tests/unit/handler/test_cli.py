"""Expected errors become one sentence; decoding flags are those of the table."""

import argparse
from pathlib import Path

import pytest

from handler.cli import add_generation_options, cli_errors, generation_config
from handler.errors import BundleError, InvalidImage, OptionOutOfRange
from handler.generation import GENERATION_OPTIONS, GenerationConfig


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BundleError("The bundle is damaged."), "The bundle is damaged."),
        (InvalidImage("The image is damaged."), "The image is damaged."),
        (FileNotFoundError(2, "No such file or directory", "cat.jpg"), "cat.jpg: No such file or directory."),
        (FileNotFoundError("There is no split 'test'."), "There is no split 'test'."),
        (LookupError("No score."), "No score."),
        (KeyboardInterrupt(), "Stopped."),
    ],
)
def test_cli_errors_exits_with_one_sentence(error, message):
    with pytest.raises(SystemExit) as caught, cli_errors(LookupError):
        raise error
    assert caught.value.code == message


def test_cli_errors_adds_advice():
    with pytest.raises(SystemExit) as caught, cli_errors(advice="The same command resumes."):
        raise KeyboardInterrupt
    assert caught.value.code == "Stopped. The same command resumes."


def test_cli_errors_keeps_the_traceback_of_a_defect():
    with pytest.raises(ZeroDivisionError), cli_errors():
        Path(1 / 0)


def parse(*arguments: str) -> GenerationConfig:
    parser = argparse.ArgumentParser()
    add_generation_options(parser, exclude=["num_captions"])
    return generation_config(parser.parse_args(arguments), GenerationConfig(beam_size=3, max_length=9))


def test_generation_config_overrides_the_defaults():
    assert parse() == GenerationConfig(beam_size=3, max_length=9)
    given = parse("--beam-size", "7", "--temperature", "0.5", "--seed=1")
    assert given == GenerationConfig(beam_size=7, max_length=9, temperature=0.5, seed=1)


def test_generation_config_out_of_range_is_an_option_error():
    with pytest.raises(OptionOutOfRange, match="beam_size"):
        parse("--beam-size", "11")


@pytest.mark.parametrize(
    ("flags", "default", "expected"),
    [
        ([], False, False),
        ([], True, True),
        (["--no-repeat-words"], False, True),
        (["--repeat-words"], True, False),
    ],
)
def test_generation_config_of_an_option_that_is_true_or_false_has_two_flags(flags, default, expected):
    parser = argparse.ArgumentParser()
    add_generation_options(parser)
    config = generation_config(parser.parse_args(flags), GenerationConfig(no_repeat_words=default))
    assert config.no_repeat_words is expected


def test_help_names_every_option_with_its_range():
    parser = argparse.ArgumentParser(formatter_class=lambda prog: argparse.HelpFormatter(prog, width=400))
    add_generation_options(parser, exclude=["num_captions"])
    text = parser.format_help()
    for option in GENERATION_OPTIONS.values():
        help_text = option.help if option.type is bool else f"{option.help} [{option.range}]"
        shown = f"--{option.name.replace('_', '-')}" in text and help_text in text
        assert shown == (option.name not in ("num_captions", "attention"))

"""Parse the options of a request, with one clear sentence for each error."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace

from handler.errors import OptionOutOfRange, UnknownOption
from handler.generation import GENERATION_OPTIONS, GenerationConfig
from handler.generation.options import GenerationOption

MAX_SHOWN = 40  # characters of a client's value in a message


def parse_options(fields: Mapping[str, object], defaults: GenerationConfig) -> GenerationConfig:
    """Parse generation options.

    Args:
        fields: Values as JSON gives them, or as text or bytes from a form.
        defaults: Values of the options that are not among the fields.

    Raises:
        UnknownOption: If a field is not an option.
        OptionOutOfRange: If a value has the wrong type or is out of range, or two options contradict each other.
    """
    values = {name: _parse_option(name, value) for name, value in fields.items()}
    try:
        return replace(defaults, **values)  # type: ignore[arg-type]  # each value has the type of its option
    except ValueError as error:
        raise OptionOutOfRange(str(error)) from error


def _parse_option(name: str, value: object) -> int | float | bool:
    option = GENERATION_OPTIONS.get(name)
    if option is None:
        valid = ", ".join(GENERATION_OPTIONS)
        raise UnknownOption(
            f"Unknown option '{format_value(name)}'. Valid options: {valid}. An image is sent in the field 'image'."
        )
    return parse_bool(name, value) if option.type is bool else _parse_number(option, value)


def _parse_number(option: GenerationOption, value: object) -> int | float:
    number = _as_number(value)
    if number is None or not option.accepts(number):
        raise OptionOutOfRange(f"{option.name} must be {option.requirement}, not {format_value(value)}.")
    return option.type(number)


def _as_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str | bytes | bytearray):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # not a number; an integer beyond any float
        return None
    if not isinstance(value, int | float) and "_" in str(value):  # "1_0" is a number in Python only
        return None
    return number if math.isfinite(number) else None


def parse_bool(name: str, value: object) -> bool:
    """Parse a boolean, as JSON gives it or as text or bytes from a form.

    Raises:
        OptionOutOfRange: If the value is anything but true or false.
    """
    if isinstance(value, bool):
        return value
    text = as_str(value)
    if text not in ("true", "false"):
        raise OptionOutOfRange(f"{name} must be true or false, not {format_value(value)}.")
    return text == "true"


def as_str(value: object) -> str:
    """Return text or UTF-8 bytes as a string; an empty string for anything else."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else value
    return text if isinstance(text, str) else ""


def format_value(value: object) -> str:
    """Format a client's value for a message."""
    if isinstance(value, dict | list):
        return f"a {'list' if isinstance(value, list) else 'JSON object'}"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    text = as_str(value) if isinstance(value, bytes | bytearray) else str(value)
    text = text or "''"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"

"""A request's options, checked against their ranges with one clear sentence each."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace

from handler.errors import OptionOutOfRange, UnknownOption
from handler.generation import GenerationConfig

# Name → smallest and largest value; whole numbers where both are.
RANGES: dict[str, tuple[int, int] | tuple[float, float]] = {
    "beam_size": (1, 10),
    "length_penalty": (0.0, 2.0),
    "min_length": (1, 50),
    "max_length": (1, 50),
    "num_captions": (1, 10),
    "no_repeat_ngram": (0, 10),
    "temperature": (0.0, 5.0),  # and not between 0 and 0.01
    "top_p": (0.01, 1.0),
    "seed": (0, 2**32 - 1),
}
FLAGS = ("attention",)


def parse_options(fields: Mapping[str, object], defaults: GenerationConfig) -> GenerationConfig:
    """Fields of a request → options.

    Args:
        fields: values as JSON gives them, or as text or bytes from a form.
        defaults: for what is not among the fields.

    Raises:
        UnknownOption: a field that is no option.
        OptionOutOfRange: a value of the wrong kind or out of its range, or two that contradict each other.
    """
    values = {}
    for name, value in fields.items():
        if name in RANGES:
            values[name] = _number(name, value)
        elif name in FLAGS:
            values[name] = parse_flag(name, value)
        else:
            known = ", ".join([*RANGES, *FLAGS])
            raise UnknownOption(
                f"There is no option '{shorten(name)}': choose among {known}; a picture's field is 'image'."
            )
    try:
        return replace(defaults, **values)
    except ValueError as error:
        raise OptionOutOfRange(str(error)) from error


def _number(name: str, value: object) -> int | float:
    low, high = RANGES[name]
    whole = isinstance(low, int)
    number = _as_number(value)
    if number is None or not low <= number <= high or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise OptionOutOfRange(f"{name} is {kind} from {low:.10g} to {high:.10g}, not {shorten(value)}.")
    return int(number) if whole else number


def _as_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str | bytes | bytearray):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # a word; a whole number beyond any float
        return None
    if not isinstance(value, int | float) and "_" in str(value):  # Python's own way to write numbers
        return None
    return number if math.isfinite(number) else None


def parse_flag(name: str, value: object) -> bool:
    """true or false, as JSON gives them or as text or bytes from a form.

    Raises:
        OptionOutOfRange: anything else.
    """
    if isinstance(value, bool):
        return value
    word = value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else value
    if word in ("true", "false"):
        return word == "true"
    raise OptionOutOfRange(f"{name} is true or false, not {shorten(value)}.")


def shorten(value: object) -> str:
    """A caller's value fit to be repeated in a sentence."""
    if isinstance(value, dict | list):
        return f"a {'list' if isinstance(value, list) else 'JSON object'}"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    text = bytes(value).decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)
    text = text or "''"
    return text if len(text) <= 40 else f"{text[:40]}…"

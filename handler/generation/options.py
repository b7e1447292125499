"""Decoding options of one image, and the one table that describes them.

`GENERATION_OPTIONS` lists every option with its type, default, range and help text. It is derived from the fields of
`GenerationConfig`, so a new option is one line there. Request validation, the OpenAPI document, the demo page, the
command lines and the table in docs/api.md all read it:

    for option in GENERATION_OPTIONS.values():
        option.name, option.type, option.default, option.min, option.max, option.allow_zero, option.help
        option.accepts(3)     # whether a request may have this value
        option.requirement    # "an integer from 1 to 10", for an error message
        option.range          # "1–10", for a table or `--help`
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from inspect import cleandoc
from types import MappingProxyType, NoneType
from typing import Any, get_args


@dataclass(frozen=True)
class GenerationOption:
    """Description of one decoding option.

    Attributes:
        name: Name of the field of `GenerationConfig`, and of the option in requests.
        type: `int`, `float` or `bool`.
        default: Default value; None if the option is unset by default.
        min: Smallest value, None for a `bool`. `GenerationConfig` enforces it.
        max: Largest value that a request may have, None for a `bool`. It bounds the cost of a request, so
            `GenerationConfig` itself accepts more.
        allow_zero: Whether 0 is valid although it is below `min`.
        help: One sentence for documentation.
    """

    name: str
    type: type[int] | type[float] | type[bool]
    default: int | float | bool | None
    min: int | float | None
    max: int | float | None
    allow_zero: bool
    help: str

    def accepts(self, value: float) -> bool:
        """Return True if a number is within the range for requests; NaN never is."""
        if self.min is None or self.max is None:
            return isinstance(value, bool)
        if self.type is int and value % 1 != 0:
            return False
        return self.min <= value <= self.max or (self.allow_zero and value == 0)

    @property
    def requirement(self) -> str:
        """Valid values as a phrase, e.g. `an integer from 1 to 10`."""
        if self.min is None:
            return "true or false"
        kind = "an integer" if self.type is int else "a number"
        return f"{'0 or ' if self.allow_zero else ''}{kind} from {self.min:.10g} to {self.max:.10g}"

    @property
    def range(self) -> str:
        """Valid values in short, e.g. `1–10`."""
        if self.min is None:
            return "true, false"
        return f"{'0, ' if self.allow_zero else ''}{self.min:.10g}–{self.max:.10g}"


def option(
    default: int | float | bool | None,
    *,
    help: str,
    min: float | None = None,
    max: float | None = None,
    allow_zero: bool = False,
) -> Any:  # noqa: ANN401 -- a dataclass field, typed by its annotation
    """Declare a decoding option: a dataclass field with its range and help text; see `GenerationOption`."""
    return field(default=default, metadata={"min": min, "max": max, "allow_zero": allow_zero, "help": help})


@dataclass(frozen=True)
class GenerationConfig:
    """Decoding options of one image; `GENERATION_OPTIONS` describes each field.

    Raises:
        ValueError: If a value is out of range, or two options contradict each other. The message is one sentence.
    """

    beam_size: int = option(5, min=1, max=10, help="Beams kept at each step; 1 is greedy search.")
    length_penalty: float = option(
        0.7, min=0.0, max=2.0, help="Exponent a of the ranking by log-probability / tokens^a: 0 sum, 1 mean."
    )
    min_length: int = option(1, min=1, max=50, help="Minimum number of words in a caption.")
    max_length: int = option(20, min=1, max=50, help="Maximum number of words in a caption.")
    num_captions: int = option(
        1, min=1, max=10, help="Captions to return, best first; beam search finds at most beam_size."
    )
    num_beam_groups: int = option(
        1,
        min=1,
        max=10,
        help="Groups of beams, each of which looks for captions unlike the others'; divides beam_size.",
    )
    diversity_penalty: float = option(
        1.0,
        min=0.0,
        max=5.0,
        help="Penalty on the log-probability of a token, for each beam of an earlier group with it at the same step.",
    )
    no_repeat_ngram: int = option(
        0, min=0, max=10, help="Length of word sequences that may not occur twice in a caption; 0 allows all."
    )
    no_repeat_words: bool = option(
        False, help="Use each content word, i.e. all but English function words, at most once in a caption."
    )
    temperature: float = option(
        0.0,
        # With less, float32 would leave nothing to sample from.
        min=0.01,
        max=5.0,
        allow_zero=True,
        help="Sampling temperature; 0 uses beam search, higher values give more varied captions.",
    )
    top_p: float = option(
        1.0,
        min=0.01,
        max=1.0,
        help="Nucleus sampling: sample from the likeliest tokens with this total probability; needs temperature.",
    )
    seed: int | None = option(
        None, min=0, max=2**32 - 1, help="Random seed of sampling, independent of the batch; random if unset."
    )
    attention: bool = option(False, help="Return the attention of each token over the grid.")

    def __post_init__(self) -> None:
        for spec in GENERATION_OPTIONS.values():
            value = getattr(self, spec.name)
            if spec.min is None or value is None or (spec.allow_zero and value == 0):
                continue
            if not spec.min <= value < math.inf:
                minimum = f"{'0 or ' if spec.allow_zero else ''}at least {spec.min:.10g}"
                raise ValueError(f"{spec.name} must be {minimum}, not {value}.")
        if self.top_p > 1:
            raise ValueError(f"top_p must be at most 1, not {self.top_p}.")
        if self.top_p < 1 and not self.do_sample:
            raise ValueError("top_p needs sampling: set temperature above 0.")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length ({self.min_length}) must not exceed max_length ({self.max_length}).")
        if self.num_beam_groups > 1 and self.do_sample:
            raise ValueError("num_beam_groups needs beam search: set temperature to 0.")
        if not self.do_sample and self.beam_size % self.num_beam_groups:
            raise ValueError(
                f"beam_size ({self.beam_size}) must be a multiple of num_beam_groups ({self.num_beam_groups})."
            )
        if self.num_captions > self.num_beams:
            raise ValueError(
                f"num_captions ({self.num_captions}) must not exceed beam_size ({self.beam_size}): "
                "beam search finds no more captions."
            )

    @property
    def do_sample(self) -> bool:
        """Whether tokens are sampled, not searched for."""
        return self.temperature > 0

    @property
    def num_beams(self) -> int:
        """Hypotheses kept at each step: beams, or independent samples."""
        return self.num_captions if self.do_sample else self.beam_size

    @property
    def beams_per_group(self) -> int:
        """Hypotheses kept at each step in each group of beams."""
        return self.num_beams // self.num_beam_groups


def _describe_options() -> dict[str, GenerationOption]:
    options = {}
    for item in fields(GenerationConfig):
        alternatives = get_args(item.type) or (item.type,)  # `int | None` → int
        [kind] = [alternative for alternative in alternatives if alternative is not NoneType]
        default: Any = item.default
        options[item.name] = GenerationOption(item.name, kind, default, **item.metadata)
    return options


GENERATION_OPTIONS: Mapping[str, GenerationOption] = MappingProxyType(_describe_options())
# `help()` and the command line of training show the attributes; they are not written twice.
GenerationConfig.__doc__ = f"{cleandoc(GenerationConfig.__doc__ or '')}\n\nAttributes:\n" + "\n".join(
    f"    {spec.name}: {spec.help}" for spec in GENERATION_OPTIONS.values()
)

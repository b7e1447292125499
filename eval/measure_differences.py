"""Differences between the measures of degeneration of two systems on the same images."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypedDict

import numpy as np

from eval.endings import bad_endings
from eval.measure_table import format_interval, measure_rows, table_values
from eval.measures import Measures
from eval.meteor import FloatArray
from eval.overuse import has_run
from eval.repetition import repeats_content_word
from eval.significance import bootstrap_means

PER_IMAGE: dict[str, Callable[[str], float]] = {
    "repeats": lambda caption: repeats_content_word(caption.split()),
    "words_per_caption": lambda caption: len(caption.split()),
    "bad_endings": lambda caption: bad_endings([caption]),
}
"""Measures that are means over the images, so that resampling the images gives an interval."""


class MeasureDifference(TypedDict):
    """Values of A, B and people, and the 95 % interval of B − A for measures that are means over the images."""

    a: float | None
    b: float | None
    people: float | None
    interval: tuple[float, float] | None


def compare_measures(
    images: Sequence[int], measures: tuple[Measures, Measures], tokens: tuple[Mapping[int, str], Mapping[int, str]]
) -> dict[str, MeasureDifference]:
    """Compare two systems, A and B.

    Args:
        images: Images that were measured; see `eval.measures.measured_images`.
        measures: Measures of A and B.
        tokens: Tokenized captions of A and B by image id, tokens separated by spaces.

    Returns:
        Difference by measure, then by run that either overuses, in quotes. The interval is a paired bootstrap.
    """
    a, b = map(table_values, measures)
    runs = {name: partial(has_run, name[1:-1]) for name in [*a, *b] if name.startswith('"')}
    per_image = PER_IMAGE | runs
    values_a, values_b = (_values(per_image, [of_system[image] for image in images]) for of_system in tokens)
    intervals = dict(zip(per_image, bootstrap_means(values_b - values_a), strict=True))
    means = {name: (values_a[:, i].mean(), values_b[:, i].mean()) for i, name in enumerate(per_image)}
    differences: dict[str, MeasureDifference] = {}
    for name in [*(name for name in a if name in b and name not in runs), *runs]:
        people = (a.get(name) or b[name])["people"]
        of_a, of_b = map(float, means[name]) if name in runs else (a[name]["model"], b[name]["model"])
        differences[name] = {"a": of_a, "b": of_b, "people": people, "interval": intervals.get(name)}
    return differences


def difference_rows(differences: Mapping[str, MeasureDifference]) -> list[list[str]]:
    """Format the rows of a table: label, values of A, B and people, interval of the difference."""
    rows = measure_rows(
        {name: {"a": one["a"], "b": one["b"], "people": one["people"]} for name, one in differences.items()}
    )
    intervals = [format_interval(name, one["interval"]) for name, one in differences.items()]
    return [[*row, interval] for row, interval in zip(rows, intervals, strict=True)]


def _values(per_image: Mapping[str, Callable[[str], float]], captions: Sequence[str]) -> FloatArray:
    """Compute the values of the captions (captions, measures)."""
    return np.array([[value(caption) for value in per_image.values()] for caption in captions], dtype=np.float64)

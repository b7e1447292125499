"""Names, units and limits of the measures of degeneration: tables and warnings of captions beside people's."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from eval.markdown import markdown_table
from eval.measures import Measures, Pair


class Limit(NamedTuple):
    """Limit of a measure, beyond which captions are far from people's.

    Attributes:
        is_exceeded: Compares the value of the captions with that of people.
        text: The limit in words.
    """

    is_exceeded: Callable[[float, float], bool]
    text: str


class Description(NamedTuple):
    """How a measure is shown.

    Attributes:
        label: Its name.
        format: Format of its value, see `str.format`.
        limit: Limit of its warning; None without one.
    """

    label: str
    format: str
    limit: Limit | None = None


PERCENT, NUMBER, INDEX = "{:.1%}", "{:.0f}", "{:.3f}"
MEASURES = {
    "repeats": Description(
        "say a content word twice", PERCENT, Limit(lambda model, people: model > people + 0.05, "people's + 5 points")
    ),
    "commonest_run": Description("have the commonest run of three", PERCENT),
    "words_used": Description(
        "words used", NUMBER, Limit(lambda model, people: model < people / 3, "a third of people's")
    ),
    "distinct": Description("distinct captions", PERCENT, Limit(lambda model, _: model < 0.85, "85 %")),
    "words_per_caption": Description("words per caption", "{:.1f}"),
    "bad_endings": Description(
        "end in a function word", PERCENT, Limit(lambda model, people: model > people + 0.02, "people's + 2 points")
    ),
    "copied": Description("copied from training", PERCENT),
    "likeness": Description(
        "likeness to people", INDEX, Limit(lambda model, people: model < 0.75 * people, "0.75 times people's")
    ),
    "recall_objects": Description("recall of objects", PERCENT),
    "recall_attributes": Description("recall of attributes", PERCENT),
    "recall_verbs": Description("recall of verbs", PERCENT),
    "recall_counts": Description("recall of counts", PERCENT),
    "recall_colors": Description("recall of colors", PERCENT),
    "recall_common_words": Description("recall of words in 1 of 50 images", PERCENT),
    "recall_medium_words": Description("recall of words in 1 of 250 images", PERCENT),
    "recall_rare_words": Description("recall of rarer words", PERCENT),
    "chair_i": Description("named objects that are not there (CHAIR-i)", PERCENT),
    "chair_s": Description("captions that name one (CHAIR-s)", PERCENT),
    "object_recall": Description("annotated objects named", PERCENT),
    "div_1": Description("Div-1 of caption sets", INDEX),
    "div_2": Description("Div-2 of caption sets", INDEX),
    "mbleu_4": Description("mBLEU-4 of caption sets", INDEX),
    "self_cider": Description(
        "self-CIDEr of caption sets", INDEX, Limit(lambda model, people: model < 0.75 * people, "0.75 times people's")
    ),
}
"""All measures, in the order of the tables."""

RUN_LIMIT = Limit(lambda model, people: model > max(0.05, 2.5 * people), "5 % and 2.5 times people's")
"""Limit of an overused run."""


def table_values(measures: Measures) -> dict[str, Pair]:
    """Return the values of a table, in its order: measures by name, then overused runs by their words in quotes."""
    runs: dict[str, Pair] = {f'"{run}"': {"model": model, "people": people} for run, model, people in measures.overused}
    return {name: measures.pairs[name] for name in MEASURES if name in measures.pairs} | runs


def measure_rows(values: Mapping[str, Mapping[str, float | None]]) -> list[list[str]]:
    """Format the rows of a table.

    Args:
        values: Value by system, in the order of the columns, for each name as in `table_values`.

    Returns:
        The label and the formatted values of each row.
    """
    return [
        [_describe(name).label, *(_format(name, value) for value in of_systems.values())]
        for name, of_systems in values.items()
    ]


def format_interval(name: str, interval: tuple[float, float] | None) -> str:
    """Format the interval of a difference between two values of a measure; "–" for None."""
    if not interval:
        return "–"
    signed = _describe(name).format.replace("{:", "{:+")
    return " … ".join(signed.format(end) for end in interval).replace("%", " %")


def format_measures(measures: Measures) -> str:
    """Format measures as a Markdown table."""
    return markdown_table(["measure", "captions", "people"], measure_rows(table_values(measures)))


def find_warnings(measures: Measures) -> list[str]:
    """Describe where captions are far from people's, a sentence each."""
    warnings = []
    for name, pair in table_values(measures).items():
        label, _, limit = _describe(name)
        model, people = pair["model"], pair["people"]
        if limit and model is not None and people is not None and limit.is_exceeded(model, people):
            values = f"{_format(name, model)}, people {_format(name, people)}"
            warnings.append(f"{label}: {values} (limit: {limit.text}).")
    return warnings


def _describe(name: str) -> Description:
    return MEASURES.get(name) or Description(name, PERCENT, RUN_LIMIT)


def _format(name: str, value: float | None) -> str:
    return "–" if value is None else _describe(name).format.format(value).replace("%", " %")

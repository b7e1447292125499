"""Find the three-word runs that captions have more often than people's captions have them, e.g. "in front of"."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eval.ngrams import NGrams

MIN_SHARE = 0.02  # of the captions; rarer runs are noise
MIN_CAPTIONS = 3  # for small splits, of which 2 % are less than one caption
WORST = 5  # runs that are named


class OverusedRun(NamedTuple):
    """A three-word run, and the share of captions that have it.

    Attributes:
        run: Three words.
        model: Share of the captions, 0 to 1.
        people: Share of the captions of people, 0 to 1.
    """

    run: str
    model: float
    people: float


def overused_runs(
    runs: NGrams, model: npt.NDArray[np.int64], people: npt.NDArray[np.int64], num_model: int, num_people: int
) -> list[OverusedRun]:
    """Name the runs with the largest excess, which is the share of captions minus the share of people's captions.

    The excess ranks by how many captions are concerned; a ratio would put rare runs first. Runs that share two adjacent
    words are one phrase, since "front of a" occurs because "in front of" does: its commonest run names it.

    Args:
        runs: The runs.
        model: Captions that have each run (runs,).
        people: Captions of people that have each run (runs,).
        num_model: Number of captions.
        num_people: Number of captions of people.

    Returns:
        The runs of up to five phrases, in at least 2 % of the captions, the largest excess first.
    """
    excess = model / num_model - people / num_people
    candidates = np.flatnonzero((model >= max(MIN_SHARE * num_model, MIN_CAPTIONS)) & (excess > 0))
    words = {int(number): runs.words(int(number)).split() for number in candidates}
    phrases: list[list[int]] = []
    for number in sorted(words, key=lambda number: (-model[number], -excess[number], words[number])):
        same = (phrase for phrase in phrases if any(_overlap(words[number], words[other]) for other in phrase))
        if phrase := next(same, None):
            phrase.append(number)
        else:
            phrases.append([number])
    worst = sorted((phrase[0] for phrase in phrases), key=lambda number: (-excess[number], words[number]))[:WORST]
    return [OverusedRun(" ".join(words[i]), float(model[i] / num_model), float(people[i] / num_people)) for i in worst]


def has_run(run: str, caption: str) -> bool:
    """Return whether a caption, with tokens separated by spaces, has a run."""
    return f" {run} " in f" {caption} "


def _overlap(a: Sequence[str], b: Sequence[str]) -> bool:
    return a[1:] == b[:-1] or b[1:] == a[:-1]

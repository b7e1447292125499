"""Likeness of captions to those of people: how similar their distributions of three-word runs are.

The likeness is 1 − the Jensen–Shannon divergence in bits (Lin 1991, https://doi.org/10.1109/18.61115): 1 for equal
distributions, 0 for those that share no run. It falls if captions prefer some runs ("in front of"), use few words, or
begin and end as people's do not, since a caption begins and ends with a marker that is part of its runs.

The commonest 1,000 runs of people count one by one, all others together. Most runs are rare, so two samples of people
share few of them; without this class, captions that say what is common would be more like people than people are.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from eval.ngrams import IntArray, NGrams

RUN_LENGTH = 3  # tokens
NUM_RUNS = 1000
START, END = "<start>", "<end>"


def mark_ends(tokens: Sequence[str]) -> list[str]:
    """Add a marker at the start and the end of a caption; an empty one stays empty."""
    return [START, *tokens, END] if tokens else []


def has_marker(runs: NGrams) -> npt.NDArray[np.bool_]:
    """Return whether each run has a marker of `mark_ends` (runs,)."""
    ends = ((runs.tokens[start], runs.tokens[start + runs.n - 1]) for start in runs.starts)
    return np.array([first == START or last == END for first, last in ends], dtype=bool)


def likeness(counts: IntArray, people: IntArray, num_runs: int = NUM_RUNS) -> float:
    """Compute 1 − the Jensen–Shannon divergence of the distributions of runs in captions and in those of people.

    Args:
        counts: Occurrences of each run in the captions (runs,).
        people: Occurrences of each run in the captions of people (runs,).
        num_runs: Runs that count one by one, the commonest of people.

    Returns:
        0 to 1; 0 if one of them has no run.
    """
    if not counts.any() or not people.any():
        return 0.0
    commonest = np.argsort(-people, kind="stable")[:num_runs]
    p, q = (np.append(of[commonest], of.sum() - of[commonest].sum()) / of.sum() for of in (counts, people))
    return float(1 - (_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2))


def _entropy(p: npt.NDArray[np.float64]) -> float:
    """Compute the entropy in bits."""
    positive = p[p > 0]
    return float(-(positive * np.log2(positive)).sum())

"""Whether a figure grows: its slope, and how sure that is where each value is much like the one before."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Trend(NamedTuple):
    """A slope and its 95 % interval, in the figure's unit an hour."""

    slope: float
    low: float
    high: float


def trend(hours: Sequence[float], values: Sequence[float]) -> Trend:
    """The slope by least squares, its interval widened for residuals that follow one another.

    Of n values whose residuals' correlation with the next is r, n (1 − r) / (1 + r) count as independent (Santer et
    al. 2000, "Statistical significance of trends and trend differences in layer-average atmospheric temperature time
    series"); r is freed of its small-sample bias first (Kendall 1954).

    Args:
        hours: evenly spaced.
        values: one each.

    Returns:
        An interval without ends where there are too few values to say.
    """
    x, y = np.asarray(hours, float), np.asarray(values, float)
    if len(x) < 3:
        return Trend(0.0, -math.inf, math.inf)
    slope, offset = np.polyfit(x, y, 1)
    residuals = y - slope * x - offset
    total = float(residuals @ residuals)
    if total <= 1e-12 * max(1.0, float(y @ y)):  # a straight line
        return Trend(float(slope), float(slope), float(slope))
    count = len(x)
    r = float(residuals[1:] @ residuals[:-1]) / total
    r = min(max(r + (1 + 4 * r) / count, 0.0), 0.999)
    free = count * (1 - r) / (1 + r) - 2
    if free < 1:
        return Trend(float(slope), -math.inf, math.inf)
    error = math.sqrt(total / free / float(((x - x.mean()) ** 2).sum()))
    margin = student((1 + LEVEL) / 2, free) * error
    return Trend(float(slope), float(slope) - margin, float(slope) + margin)


def student(share: float, free: float) -> float:
    """A quantile of Student's distribution with so many degrees of freedom, by Cornish and Fisher's expansion."""
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / free**power for power, term in enumerate(terms, 1))

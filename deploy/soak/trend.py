"""Linear trend of a time series, with a confidence interval that accounts for autocorrelation."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

CONFIDENCE = 0.95
MAX_CORRELATION = 0.999  # of neighbouring residuals; 1 would leave no independent value


class Trend(NamedTuple):
    """Slope and 95 % confidence interval, in units of the values per hour."""

    slope: float
    low: float
    high: float


def trend(hours: Sequence[float], values: Sequence[float]) -> Trend:
    """Fit a line by least squares and widen its interval for autocorrelated residuals.

    n values whose residuals have lag-1 correlation r count as n (1 − r) / (1 + r) independent values (Santer et al.
    2000, "Statistical significance of trends and trend differences in layer-average atmospheric temperature time
    series"). r is corrected for its small-sample bias first (Kendall 1954).

    Args:
        hours: Evenly spaced times.
        values: One value for each time.

    Returns:
        The trend; its interval is infinite if there are too few values.
    """
    x, y = np.asarray(hours, float), np.asarray(values, float)
    count = len(x)
    if count < 3:
        return Trend(0.0, -math.inf, math.inf)
    fit = stats.linregress(x, y)
    slope = float(fit.slope)
    residuals = y - slope * x - fit.intercept
    squares = float(residuals @ residuals)
    if squares <= 1e-12 * max(1.0, float(y @ y)):  # a straight line: the residuals are rounding errors
        return Trend(slope, slope, slope)
    correlation = float(residuals[1:] @ residuals[:-1]) / squares
    correlation = min(max(correlation + (1 + 4 * correlation) / count, 0.0), MAX_CORRELATION)
    freedom = count * (1 - correlation) / (1 + correlation) - 2
    if freedom < 1:
        return Trend(slope, -math.inf, math.inf)
    # linregress divides by count - 2 degrees of freedom.
    error = float(fit.stderr) * math.sqrt((count - 2) / freedom)
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Trend(slope, slope - margin, slope + margin)

"""The trend of a time series and its confidence interval."""

import numpy as np
import pytest
from scipy import stats

from deploy.soak.trend import trend
from tests.unit.deploy.soak.series import noise


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_trend_interval_covers_the_slope_at_any_autocorrelation(correlation):
    hours = np.arange(200) / 200
    trends = [trend(hours, 3 * hours + noise(correlation, 200, seed)) for seed in range(200)]
    assert sum(one.low <= 3 <= one.high for one in trends) >= 180  # 95 %, minus the sampling error of 200 trials
    assert np.mean([one.slope for one in trends]) == pytest.approx(3, abs=1)


def test_trend_of_negatively_correlated_residuals_is_that_of_independent_ones():
    """Hand check: slope and interval of an ordinary regression with n - 2 degrees of freedom."""
    hours = np.arange(40.0)
    values = 2 * hours + np.tile([1.0, -1.0], 20)
    fit = stats.linregress(hours, values)
    margin = stats.t.ppf(0.975, 38) * fit.stderr
    assert trend(hours, values) == pytest.approx((fit.slope, fit.slope - margin, fit.slope + margin))


@pytest.mark.parametrize(
    ("values", "slope", "is_finite"),
    [([1, 2, 3, 4], 3.0, True), ([5, 5, 5, 5], 0.0, True), ([1, 2], 0.0, False), ([], 0.0, False)],
    ids=["line", "constant", "two values", "no values"],
)
def test_trend_of_straight_lines_and_of_too_few_values(values, slope, is_finite):
    result = trend(np.arange(len(values)) / 3, values)
    assert result.slope == pytest.approx(slope)
    assert (result.low, result.high) == (pytest.approx((slope, slope)) if is_finite else (-np.inf, np.inf))

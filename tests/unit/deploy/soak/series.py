"""Time series and soak results to test with."""

from typing import Any

import numpy as np

from deploy.soak.load import ResponseSummary, SoakResult
from deploy.soak.monitor import FIGURES, Sample
from deploy.soak.report import summarize

RESPONSE = ResponseSummary(200, "a dog")


def noise(correlation: float, count: int, seed: int) -> np.ndarray:
    """Generate an autoregressive series of first order with unit innovations."""
    generator = np.random.default_rng(seed)
    values = [generator.normal() / (1 - correlation**2) ** 0.5]
    for _ in range(count - 1):
        values.append(correlation * values[-1] + generator.normal())
    return np.array(values)


def soak_report(
    grown: str = "", rise: float = 0.0, hours: float = 0.5, outcome: str = "caption", workers: int = 1, unready: int = 0
) -> dict[str, Any]:
    """Summarize a soak test in which a figure rises linearly and one request has an outcome."""
    count = 300
    samples = []
    for number in range(count):
        share = number / count
        values = {name: 100 + noise(0.5, 1, number)[0] for name in FIGURES}
        if grown:
            values[grown] += rise * share
        samples.append(Sample(3600 * hours * share, **values))
    results = [
        SoakResult("raw", outcome if number == 7 else "caption", 6.0 * hours * number, 0.1, RESPONSE)
        for number in range(600)
    ]
    return summarize(samples, results, 0.0, 3600 * hours, workers, unready)

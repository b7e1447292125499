"""Significance of scores: bootstrap intervals, and paired tests of two systems on the same images.

Images are resampled. The IDF of CIDEr always comes from the whole split, since another IDF for each resample would be
another metric. BLEU and METEOR are not means, so they are recomputed from the summed statistics of each resample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.meteor import FloatArray, Meteor
from eval.metrics import MEANS, METRICS, CaptionScores, bleu_from_stats

RESAMPLES = 1000
SEED = 12345
LEVEL = 0.95

Samples = dict[str, FloatArray]  # metric → its score in each resample


@dataclass(frozen=True)
class Difference:
    """Difference between the scores of two systems, A and B.

    Attributes:
        a: Score of A.
        b: Score of B.
        interval: 95 % interval of b - a by paired bootstrap.
        p: Two-sided p-value by approximate randomization.
    """

    a: float
    b: float
    interval: tuple[float, float]
    p: float

    @property
    def difference(self) -> float:
        """Return b - a."""
        return self.b - self.a


def bootstrap(
    measured: CaptionScores, meteor: Meteor | None, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """Compute 95 % percentile bootstrap intervals of the corpus scores.

    Args:
        measured: Scores of a split.
        meteor: Running METEOR process, if METEOR was measured.
        resamples: Number of resamples, each of as many images as the split has.
        seed: Seed of the resamples; the same seed gives the same intervals.

    Returns:
        Lower and upper end by metric.
    """
    counts = _bootstrap_counts(len(measured.images), resamples, seed)
    return {name: _interval(values) for name, values in _scores([(measured, counts)], meteor).items()}


def bootstrap_mean(values: FloatArray, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of the mean of `values` (N,); resamples as in `bootstrap`."""
    [interval] = bootstrap_means(values[:, None], resamples, seed)
    return interval


def bootstrap_means(values: FloatArray, resamples: int = RESAMPLES, seed: int = SEED) -> list[tuple[float, float]]:
    """Compute the interval of `bootstrap_mean` for each column of `values` (N, columns), on the same resamples."""
    means = _bootstrap_counts(len(values), resamples, seed) @ values / len(values)
    return [_interval(column) for column in means.T]


def paired_tests(
    a: CaptionScores, b: CaptionScores, meteor: Meteor | None, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Difference]:
    """Compare two systems on the same images.

    The interval is a paired bootstrap (Koehn 2004, https://aclanthology.org/W04-3250): both systems are scored on the
    same resamples. The p-value is by approximate randomization (Riezler and Maxwell 2005,
    https://aclanthology.org/W05-0908): the captions of both systems are swapped with probability 0.5 for each image,
    and p = (c + 1) / (n + 1) if c of n random swaps have an absolute difference at least as large as the observed one.

    Args:
        a: Scores of A.
        b: Scores of B.
        meteor: Running METEOR process, if METEOR was measured.
        resamples: Number of resamples and of random swaps.
        seed: Seed of both.

    Raises:
        ValueError: If the two systems were scored on different images.
    """
    if a.images != b.images:
        raise ValueError("The two runs do not have the same images.")
    num_images = len(a.images)
    counts = _bootstrap_counts(num_images, resamples, seed)
    swaps = np.random.default_rng([seed, 1]).integers(0, 2, (resamples, num_images)).astype(np.float64)
    resampled_a, resampled_b = (_scores([(measured, counts)], meteor) for measured in (a, b))
    swapped_a, swapped_b = (_scores([(a, 1 - swap), (b, swap)], meteor) for swap in (swaps, 1 - swaps))
    corpus_a, corpus_b = (_scores([(measured, np.ones((1, num_images)))], meteor) for measured in (a, b))
    differences = {}
    for name in resampled_a:
        observed = corpus_b[name][0] - corpus_a[name][0]  # from sums, as the differences it is compared with
        by_chance = np.abs(swapped_b[name] - swapped_a[name])
        # Sums in another order differ in their last digits; such differences count as equal.
        num_as_extreme = int((by_chance >= abs(observed) - 1e-12).sum())
        interval = _interval(resampled_b[name] - resampled_a[name])
        p = (num_as_extreme + 1) / (resamples + 1)
        differences[name] = Difference(a.scores[name], b.scores[name], interval, p)
    return differences


def _bootstrap_counts(num_images: int, resamples: int, seed: int) -> FloatArray:
    """Sample how often each image occurs in each resample, (resamples, images)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_images, np.full(num_images, 1 / num_images), resamples).astype(np.float64)


def _scores(parts: Sequence[tuple[CaptionScores, FloatArray]], meteor: Meteor | None) -> Samples:
    """Compute the scores of sets of images, each combined from the captions of one or more systems.

    Args:
        parts: Scores of a system, and how often each of its images is in each set (sets, images).
        meteor: Running METEOR process, if METEOR was measured.
    """
    size = np.sum([counts.sum(1) for _, counts in parts], 0)  # (sets,)
    bleu = bleu_from_stats(np.sum([counts @ measured.bleu for measured, counts in parts], 0))
    samples = {f"Bleu_{n}": bleu[:, n - 1] for n in range(1, bleu.shape[1] + 1)}
    meteor_sums = [counts @ measured.meteor for measured, counts in parts if measured.meteor is not None]
    if meteor is not None and len(meteor_sums) == len(parts):
        _, values = meteor.evaluate(np.sum(meteor_sums, 0))
        samples["METEOR"] = np.array(values)
    for name in MEANS:
        if all(name in measured.scores for measured, _ in parts):
            samples[name] = np.sum([counts @ measured.per_image[name] for measured, counts in parts], 0) / size
    return {name: samples[name] for name in METRICS if name in samples}


def _interval(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

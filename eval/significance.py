"""How sure a score is: bootstrap intervals, and paired tests of two systems on the same images.

Images are drawn, and CIDEr's IDF is that of the whole split always: another one for each draw would measure something
else. BLEU and METEOR are computed anew from the drawn images' summed statistics, as they are no means.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.meteor import Meteor
from eval.metrics import METRICS, CaptionScores, bleu_of

RESAMPLES = 1000
SEED = 12345
LEVEL = 0.95

Samples = dict[str, np.ndarray]  # metric → its score in each resample


def bootstrap(
    measured: CaptionScores, meteor: Meteor | None, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """95 % intervals of each score: percentiles over sets of as many images, drawn with replacement.

    Args:
        measured: a split's captions.
        meteor: running, where METEOR was measured.
        resamples: sets drawn.
        seed: of the draws; the same sets each time.

    Returns:
        For each metric the lower and the upper end.
    """
    counts = _draws(len(measured.images), resamples, seed)
    return {name: _interval(values) for name, values in _scores([(measured, counts)], meteor).items()}


@dataclass(frozen=True)
class Difference:
    """How a score of B differs from A's.

    Attributes:
        a: A's score.
        b: B's score.
        interval: 95 % interval of b - a, from paired bootstrap.
        p: of approximate randomisation, two-sided: how often systems that are alike differ as much by chance.
    """

    a: float
    b: float
    interval: tuple[float, float]
    p: float

    @property
    def difference(self) -> float:
        """b - a."""
        return self.b - self.a


def compare(
    a: CaptionScores, b: CaptionScores, meteor: Meteor | None, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Difference]:
    """Paired tests of two systems on the same images.

    The interval comes from drawing the same images for both (Koehn 2004). The p-value comes from swapping the two
    systems' captions of each image by the toss of a coin (Riezler and Maxwell 2005): p = (c + 1) / (n + 1), c the
    number of n swaps that give a difference as large.

    Args:
        a: the one compared with.
        b: the other.
        meteor: running, where METEOR was measured.
        resamples: sets drawn, and swaps.
        seed: of both.

    Raises:
        ValueError: they were measured on other images.
    """
    if a.images != b.images:
        raise ValueError("The two runs do not have the same images.")
    images = len(a.images)
    counts = _draws(images, resamples, seed)
    swapped = np.random.default_rng([seed, 1]).integers(0, 2, (resamples, images)).astype(np.float64)
    drawn = [_scores([(one, counts)], meteor) for one in (a, b)]
    mixed = [_scores([(a, 1 - swaps), (b, swaps)], meteor) for swaps in (swapped, 1 - swapped)]
    whole = [_scores([(one, np.ones((1, images)))], meteor) for one in (a, b)]
    found = {}
    for name in drawn[0]:
        observed = whole[1][name][0] - whole[0][name][0]  # from sums, as what it is held against
        by_chance = np.abs(mixed[1][name] - mixed[0][name])
        # Sums in another order differ in their last digits: those count as equal.
        reached = int((by_chance >= abs(observed) - 1e-12).sum())
        interval = _interval(drawn[1][name] - drawn[0][name])
        found[name] = Difference(a.scores[name], b.scores[name], interval, (reached + 1) / (resamples + 1))
    return found


def _draws(images: int, resamples: int, seed: int) -> np.ndarray:
    """How often each image is in each resample, (resamples, images)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), resamples).astype(np.float64)


def _scores(parts: Sequence[tuple[CaptionScores, np.ndarray]], meteor: Meteor | None) -> Samples:
    """The scores of sets of images, each set put together from one or more systems' captions.

    Args:
        parts: a system and how often each of its images is in each set, (sets, images).
        meteor: running, where METEOR was measured.
    """
    size = sum(counts.sum(1) for _, counts in parts)  # (sets,)
    bleu = bleu_of(sum(counts @ measured.bleu for measured, counts in parts))
    found = {f"Bleu_{n}": bleu[:, n - 1] for n in range(1, bleu.shape[1] + 1)}
    if all(measured.meteor is not None for measured, _ in parts):
        _, values = meteor.evaluate(sum(counts @ measured.meteor for measured, counts in parts))
        found["METEOR"] = np.array(values)
    for name in ("ROUGE_L", "CIDEr", "SPICE"):
        if any(name not in measured.each for measured, _ in parts):
            continue
        found[name] = sum(counts @ measured.each[name] for measured, counts in parts) / size
    return {name: found[name] for name in METRICS if name in found}


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

"""Deviation of the length of a caption from the mean length of its references."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class LengthDeviation:
    """|length - mean length of the references| / mean length of the references.

    The nearest reference, which BLEU compares with, would not do: five references differ so much in length that all
    captions could shrink to the shortest one without a cost.

    Args:
        references: Reference captions of each image as token ids. `<end>` counts as a token if present, here and in
            the captions.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]) -> None:
        self._mean = np.array([np.mean([len(text) for text in texts]) for texts in references])

    def score(self, images: Sequence[int], captions: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Compute the deviation of each caption of token ids (captions,), ≥ 0; see `NgramOveruse.score`."""
        length = np.array([len(caption) for caption in captions], np.float64)
        mean = self._mean[np.asarray(images, np.int64)]
        deviation: np.ndarray[Any, np.dtype[np.float64]] = np.abs(length - mean) / mean
        return deviation

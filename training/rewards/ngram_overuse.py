"""Overuse of trigrams: how much oftener the captions of a model have a three-word run than captions of people."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

WINDOW = 6_000  # trigrams, those of about 600 captions
SMOOTHING = 1e-4  # probability; "in front of" has 0.003 in captions of people
TOKEN_BITS = 21  # a trigram is one 64-bit integer

Array = np.ndarray[Any, Any]


class NgramOveruse:
    """Mean over the trigrams g of a caption of max(0, log((p_model(g) + ε) / (p_people(g) + ε))), ε = `SMOOTHING`.

    Self-critical training makes common runs commoner, because they fit many references (Luo and Shakhnarovich 2020,
    "Analysis of diversity-accuracy tradeoff in image captioning", https://arxiv.org/abs/2002.11848). A reward of single
    captions cannot notice that. This one compares with the greedy captions of recent steps. Samples are no substitute:
    a run that the model says in one sample of ten can still be in each caption of a search.

    p_people is the relative frequency in the references. p_model is the one in the last `WINDOW` counted trigrams. A
    window that is not yet full is completed by the frequencies of people, so nothing is overused at first. ε bounds the
    value of runs that people never use, and keeps that of rare ones near 0.

    Images are in groups with separate counts, e.g. one for each data set: common counts would let a run be overused in
    one data set because people use it in another.

    Args:
        references: Reference captions of each image as token ids, ≥ 0 and below 2^21. `<end>` counts as a token.
        groups: Group of each image, 0, 1, ….
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], groups: Sequence[int]) -> None:
        self._groups = np.array(groups, np.int64)
        captions, keys = _trigrams(list(chain.from_iterable(references)))
        group = np.repeat(self._groups, [len(texts) for texts in references])[captions]
        count = max(groups) + 1
        self._people = [_Frequencies(keys[group == number]) for number in range(count)]
        self._window: list[Array] = [np.zeros(0, np.int64) for _ in range(count)]  # trigrams, the oldest first
        self._model = [_Frequencies(keys) for keys in self._window]

    def score(self, images: Sequence[int], captions: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Compute the overuse of each caption.

        Args:
            images: Index of the image of each caption, in the order of the references.
            captions: Token ids; a caption of fewer than three tokens scores 0.

        Returns:
            (captions,), ≥ 0, in nats.
        """
        caption, keys = _trigrams(captions)
        group = self._groups[np.asarray(images, np.int64)][caption]
        ratio = np.zeros(len(keys))
        for number, (people, model, window) in enumerate(zip(self._people, self._model, self._window, strict=True)):
            members = group == number
            expected = people.of(keys[members])
            full = len(window) / WINDOW
            sampled = full * model.of(keys[members]) + (1 - full) * expected
            ratio[members] = np.log((sampled + SMOOTHING) / (expected + SMOOTHING))
        count = np.bincount(caption, minlength=len(captions))
        scores: Array = np.bincount(caption, np.maximum(ratio, 0), minlength=len(captions)) / np.maximum(count, 1)
        return scores

    def update(self, images: Sequence[int], captions: Sequence[Sequence[int]]) -> None:
        """Count captions of images; see `score`."""
        caption, keys = _trigrams(captions)
        group = self._groups[np.asarray(images, np.int64)][caption]
        for number in np.unique(group):
            self._window[number] = np.concatenate((self._window[number], keys[group == number]))[-WINDOW:]
            self._model[number] = _Frequencies(self._window[number])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the trigrams of the window of each group (trigrams,), by the number of the group."""
        return {str(number): torch.from_numpy(window) for number, window in enumerate(self._window)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._window = [state[str(number)].numpy() for number in range(len(self._window))]
        self._model = [_Frequencies(keys) for keys in self._window]


class _Frequencies:
    """Relative frequencies of integers."""

    def __init__(self, keys: Array) -> None:
        self._keys, counts = np.unique(keys, return_counts=True)
        self._shares = counts / max(1, len(keys))

    def of(self, keys: Array) -> Array:
        """Look up frequencies; 0 for a key that does not occur."""
        if not len(self._keys):
            return np.zeros(len(keys))
        index = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[index] == keys, self._shares[index], 0.0)


def _trigrams(captions: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Return the index of the caption and the integer of each trigram, in the order of the captions."""
    ids = np.fromiter(chain.from_iterable(captions), np.int64)
    caption = np.repeat(np.arange(len(captions)), np.array([len(caption) for caption in captions], np.int64))
    inside = caption[:-2] == caption[2:]
    keys = ((ids[:-2] << TOKEN_BITS | ids[1:-1]) << TOKEN_BITS) | ids[2:]
    return caption[:-2][inside], keys[inside]

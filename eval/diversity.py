"""Diversity of sets of captions: how much the captions of one image differ from each other.

Div-n and mBLEU are those of Shetty et al. 2017 (https://arxiv.org/abs/1703.10476), self-CIDEr is that of Wang and Chan
2019 (https://arxiv.org/abs/1903.12020).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eval.meteor import FloatArray
from eval.metrics import MAX_N, bleu_from_stats
from eval.ngrams import EncodedTexts, IntArray, NGrams

CaptionSet = Sequence[Sequence[str]]  # tokens of each caption of an image


class _Counts(NamedTuple):
    """Occurrences of the n-grams of each set, for one n.

    Attributes:
        sets: Index of the set of each row (rows,).
        ids: Number of the n-gram of each row (rows,).
        counts: Occurrences in each caption of the set (rows, captions); 0 where a set has fewer captions.
    """

    sets: IntArray
    ids: IntArray
    counts: IntArray


def measure_diversity(sets: Sequence[CaptionSet], references: Sequence[CaptionSet]) -> dict[str, float]:
    """Compute Div-1, Div-2, mBLEU-4 and self-CIDEr of sets.

    Args:
        sets: Captions of each image as tokens, at least two of each.
        references: References of all images of the split as tokens; CIDEr takes its IDF from them.

    Returns:
        `div_1`, `div_2`, `mbleu_4`, `self_cider`, each 0 to 1.
    """
    texts = EncodedTexts(_flatten([*sets, *references]))
    ngrams = [texts.ngrams(n) for n in range(1, MAX_N + 1)]
    counts = [_count(of_n, sets) for of_n in ngrams]
    words = np.array([sum(map(len, captions)) for captions in sets])
    return {
        "div_1": distinct_share(counts[0].sets, words),
        "div_2": distinct_share(counts[1].sets, words),
        "mbleu_4": mutual_bleu(sets, counts),
        "self_cider": self_cider(sets, counts, [_idf(of_n, len(_flatten(sets)), references) for of_n in ngrams]),
    }


def distinct_share(rows: IntArray, words: IntArray) -> float:
    """Compute Div-n: the different n-grams of a set over its words, as a mean over the sets; higher is more diverse.

    Args:
        rows: Index of the set of each different n-gram of a set.
        words: Words of each set (sets,). A set without words counts as 0.
    """
    return float(np.mean(np.bincount(rows, minlength=len(words)) / np.maximum(words, 1)))


def mutual_bleu(sets: Sequence[CaptionSet], counts: Sequence[_Counts]) -> float:
    """Compute mBLEU-4: BLEU-4 of each caption against the others of its set; lower is more diverse.

    The statistics of all captions are summed, as in BLEU of a corpus. The count of an n-gram is clipped to its largest
    count in another caption of the set.
    """
    matches = []
    for of_n in counts:
        ordered = np.sort(of_n.counts, 1)
        is_largest = of_n.counts == ordered[:, -1:]
        matches.append(np.minimum(of_n.counts, np.where(is_largest, ordered[:, -2:-1], ordered[:, -1:])).sum())
    lengths = [[len(caption) for caption in captions] for captions in sets]
    closest = sum(
        min((abs(other - length), other) for other in of_set[:i] + of_set[i + 1 :])[1]
        for of_set in lengths
        for i, length in enumerate(of_set)
    )
    sums = [*matches, *(of_n.counts.sum() for of_n in counts), sum(map(sum, lengths)), closest]
    return float(bleu_from_stats(np.array(sums, dtype=np.float64))[-1])


def self_cider(sets: Sequence[CaptionSet], counts: Sequence[_Counts], idf: Sequence[FloatArray]) -> float:
    """Compute self-CIDEr, as a mean over the sets; higher is more diverse.

    The kernel of a set is the CIDEr of each pair of its captions: the cosine of their TF-IDF vectors, as a mean over
    n = 1 … 4. With its eigenvalues λ and m captions, r = √λ_max / Σ √λ, and self-CIDEr is −log_m r: 0 if all captions
    are equal, 1 if no two share an n-gram (Wang and Chan 2019, section 3.2).

    Args:
        sets: Captions of each image as tokens.
        counts: n-grams of the sets, for n = 1 … 4.
        idf: IDF of each n-gram, for n = 1 … 4.
    """
    sizes = np.array([len(captions) for captions in sets])
    kernels = np.mean([_cosines(of_n, idf_of_n, len(sets)) for of_n, idf_of_n in zip(counts, idf, strict=True)], 0)
    roots = np.sqrt(np.clip(np.linalg.eigvalsh(kernels), 0, None))  # captions that a set lacks add zeros
    total = roots.sum(1)
    ratio = np.divide(roots[:, -1], total, out=np.ones(len(sets)), where=total > 0)
    return float(np.mean(-np.log(ratio) / np.log(sizes)))


def _cosines(of_n: _Counts, idf: FloatArray, num_sets: int) -> FloatArray:
    """Compute the cosine of the TF-IDF vectors of each pair of captions of a set (sets, captions, captions)."""
    vectors = of_n.counts * idf[of_n.ids, None]
    size = vectors.shape[1]
    products = np.zeros((num_sets, size, size))
    for i in range(size):
        for j in range(i + 1):
            products[:, i, j] = np.bincount(of_n.sets, vectors[:, i] * vectors[:, j], num_sets)
            products[:, j, i] = products[:, i, j]
    norms = np.sqrt(np.diagonal(products, axis1=1, axis2=2))
    scale = norms[:, :, None] * norms[:, None, :]
    cosines: FloatArray = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return cosines


def _flatten(sets: Iterable[CaptionSet]) -> list[Sequence[str]]:
    return [caption for captions in sets for caption in captions]


def _count(ngrams: NGrams, sets: Sequence[CaptionSet]) -> _Counts:
    """Count the n-grams of each set; the captions of the sets are the first texts of `ngrams`."""
    sizes = [len(captions) for captions in sets]
    set_of, slot = np.repeat(np.arange(len(sets)), sizes), np.concatenate([np.arange(size) for size in sizes])
    of_sets = ngrams.texts < len(set_of)
    texts = ngrams.texts[of_sets]
    pairs, rows = np.unique(set_of[texts] * ngrams.size + ngrams.ids[of_sets], return_inverse=True)
    counts = np.bincount(rows * max(sizes) + slot[texts], minlength=len(pairs) * max(sizes))
    set_of_row, ids = np.divmod(pairs, max(ngrams.size, 1))
    return _Counts(set_of_row, ids, counts.reshape(-1, max(sizes)))


def _idf(ngrams: NGrams, first: int, references: Sequence[CaptionSet]) -> FloatArray:
    """Compute the IDF of each n-gram from the images whose references have it; `first` is the text of the first one."""
    image_of = np.repeat(np.arange(len(references)), [len(captions) for captions in references])
    of_reference = ngrams.texts >= first
    pairs = np.unique(ngrams.ids[of_reference] * len(references) + image_of[ngrams.texts[of_reference] - first])
    frequency = np.bincount(pairs // len(references), minlength=ngrams.size)
    idf: npt.NDArray[np.float64] = np.log(len(references) / np.maximum(frequency, 1))
    return idf

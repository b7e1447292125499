"""Caption metrics, computed by pycocoevalcap as in the papers."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from eval import spice
from eval.java import JavaError
from eval.meteor import VERSION, FloatArray, Meteor, MeteorError
from eval.model_metrics import MODEL_METRICS
from eval.ptb_tokenizer import tokenize_lines

TOKENIZER = "ptb3.4.1"
MAX_N = 4  # length of the longest n-grams of BLEU
MEANS = ("ROUGE_L", "CIDEr", "SPICE", *MODEL_METRICS)  # metrics that are means over the images
METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", *MEANS)


@dataclass(frozen=True)
class CaptionScores:
    """Scores of the captions of a split, and the statistics to resample them.

    Attributes:
        images: Image ids, in the order of the rows below.
        references: Tokenized reference captions by image id.
        tokens: Tokenized captions by image id, tokens separated by spaces.
        scores: Corpus scores: `Bleu_1` … `Bleu_4`, `METEOR` and `SPICE` if measured, `ROUGE_L` (all 0 to 1), `CIDEr`
            (0 to 10), and those of `eval.model_metrics` if measured.
        bleu: BLEU statistics (images, 10): matched n-grams for n = 1 … 4, n-grams for n = 1 … 4, length of the
            caption, length of the reference that is closest in length. Their sums determine BLEU of any set of images.
        meteor: METEOR statistics (images, 23), see `Meteor.statistics`; None if METEOR was not measured.
        per_image: Scores of each image (images,), by `Bleu_4`, `METEOR` and the names in `MEANS`. The corpus scores of
            BLEU and METEOR are not means of them.
        not_measured: Why a metric is missing in `scores`, by metric.
    """

    images: list[int]
    references: dict[int, list[str]]
    tokens: dict[int, str]
    scores: dict[str, float]
    bleu: FloatArray
    meteor: FloatArray | None
    per_image: dict[str, FloatArray]
    not_measured: dict[str, str] = field(default_factory=dict)

    def add_means(self, scores: Mapping[str, FloatArray]) -> Self:
        """Add the scores of each image by further metrics, whose corpus scores are their means.

        Returns:
            These scores.
        """
        self.per_image.update(scores)
        self.scores.update({name: float(values.mean()) for name, values in scores.items()})
        return self

    def without_meteor(self, reason: str) -> "CaptionScores":
        """Return the other scores."""
        return replace(
            self,
            scores={name: score for name, score in self.scores.items() if name != "METEOR"},
            meteor=None,
            per_image={name: scores for name, scores in self.per_image.items() if name != "METEOR"},
            not_measured=self.not_measured | {"METEOR": reason.rstrip(".")},
        )


def score_captions(
    references: Mapping[int, Sequence[str]], captions: Mapping[int, str], *, meteor: bool | Meteor = True
) -> dict[str, float]:
    """Compute the corpus scores only.

    Args:
        references: As in `compute_metrics`.
        captions: As in `compute_metrics`.
        meteor: As in `compute_metrics`.

    Raises:
        ValueError: As in `compute_metrics`.
        RuntimeError: If the tokenizer or METEOR fails.
    """
    measured = compute_metrics(references, captions, meteor=meteor)
    if "METEOR" in measured.not_measured:
        raise RuntimeError(measured.not_measured["METEOR"])
    return measured.scores


def compute_metrics(
    references: Mapping[int, Sequence[str]], captions: Mapping[int, str], *, meteor: bool | Meteor = True
) -> CaptionScores:
    """Compute BLEU-1 to BLEU-4, METEOR, ROUGE-L and CIDEr-D of a split.

    The IDF of CIDEr comes from the given references, as in coco-caption: scores of a part of a split are not comparable
    with those of the whole split. It is undefined if the references of all images have the same n-grams, e.g. for one
    image: every IDF is 0 then.

    Args:
        references: Reference captions by image id.
        captions: Caption to score by image id; may be empty.
        meteor: Whether to compute METEOR, which takes 5 to 10 s to start, 3 ms per image and 1.2 GB of memory; or a
            running METEOR process, which saves the start.

    Raises:
        ValueError: If the image ids of references and captions differ, or there are none.
        RuntimeError: If the tokenizer fails. A failure of METEOR is named in `not_measured`.
    """
    if not references or references.keys() != captions.keys():
        raise ValueError(
            f"{len(references.keys() - captions.keys())} images have no caption and "
            f"{len(captions.keys() - references.keys())} captions have no image, of {len(references)} images."
        )
    tokenized = tokenize_captions(
        {image: [*texts, captions[image]] for image, texts in references.items()}
    )  # starts Java once
    tokenized_references = {image: texts[:-1] for image, texts in tokenized.items()}
    candidates = {image: texts[-1:] for image, texts in tokenized.items()}
    tokens = {image: text for image, (text,) in candidates.items()}
    scorer = BleuScorer(n=MAX_N)
    for image, texts in tokenized_references.items():
        scorer += (tokens[image], texts)
    bleu, bleu_per_image = scorer.compute_score(option="closest")
    scores = {f"Bleu_{n}": score for n, score in enumerate(bleu, 1)}
    per_image = {"Bleu_4": bleu_per_image[-1]}
    statistics, not_measured = None, {}
    if meteor:
        try:
            with nullcontext(meteor) if isinstance(meteor, Meteor) else Meteor() as process:
                statistics = process.statistics(tokenized_references, tokens)
                scores["METEOR"], per_image["METEOR"] = process.evaluate(statistics)
        except MeteorError as error:
            statistics, not_measured["METEOR"] = None, str(error).rstrip(".")
    for name, metric in (("ROUGE_L", Rouge()), ("CIDEr", Cider())):
        scores[name], per_image[name] = metric.compute_score(tokenized_references, candidates)
    if not _has_idf(tokenized_references):
        del scores["CIDEr"]
        not_measured["CIDEr"] = "it is undefined below two images with different references"
    return CaptionScores(
        images=list(tokenized_references),
        references=tokenized_references,
        tokens=tokens,
        scores={name: float(score) for name, score in scores.items()},
        bleu=np.array([_bleu_stats(image) for image in scorer.ctest], dtype=np.float64),
        meteor=statistics,
        per_image={name: np.asarray(values, dtype=np.float64) for name, values in per_image.items()},
        not_measured=not_measured,
    )


def _has_idf(references: Mapping[int, Sequence[str]]) -> bool:
    """Return whether an n-gram of the references is missing in those of an image, so that its IDF is not 0."""
    grams = ({gram for text in texts for gram in _n_grams(text)} for texts in references.values())
    first = next(grams)
    return any(others != first for others in grams)


def _n_grams(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the n-grams of a tokenized text, n = 1 … 4."""
    words = text.split()
    return (tuple(words[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(words) - n + 1))


def compute_all_metrics(
    references: Mapping[int, Sequence[str]], captions: Mapping[int, str], meteor: Meteor | None
) -> CaptionScores:
    """Compute `compute_metrics`, METEOR if it is running, and SPICE if it is installed.

    Errors as there. A metric whose process fails is named in `not_measured`, and the others are computed.
    """
    measured = compute_metrics(references, captions, meteor=meteor or False)
    if meteor is None:
        measured.not_measured["METEOR"] = "it was not requested"
    try:
        if spice.is_installed():
            measured.scores["SPICE"], per_image = spice.spice_scores(measured.references, measured.tokens)
            measured.per_image["SPICE"] = np.array(per_image)
        else:
            measured.not_measured["SPICE"] = spice.MISSING
    except JavaError as error:
        measured.not_measured["SPICE"] = str(error).rstrip(".")
    return measured


def bleu_from_stats(sums: FloatArray) -> FloatArray:
    """Compute BLEU-1 to BLEU-4 of sets of images.

    Formula and smoothing constants are those of pycocoevalcap, so that the scores of a whole split are identical.

    Args:
        sums: Sums (…, 10) over the rows of `CaptionScores.bleu`.

    Returns:
        Scores (…, 4), 0 to 1.
    """
    correct, total = sums[..., :MAX_N], sums[..., MAX_N : 2 * MAX_N]
    length, reference_length = sums[..., -2], sums[..., -1]
    precisions = np.cumprod((correct + 1e-15) / (total + 1e-9), -1) ** (1 / np.arange(1, MAX_N + 1))
    ratio = (length + 1e-15) / (reference_length + 1e-9)
    brevity_penalty = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    scores: FloatArray = precisions * brevity_penalty[..., None]
    return scores


def _bleu_stats(image: dict[str, Any]) -> list[int]:
    """Compute a row of `CaptionScores.bleu` from the counts of pycocoevalcap."""
    length = image["testlen"]
    closest = min((abs(reference - length), reference) for reference in image["reflen"])[1]
    return [*image["correct"], *image["guess"], length, closest]


def tokenize_captions(texts: Mapping[int, Sequence[str]]) -> dict[int, list[str]]:
    """Tokenize texts with the PTB tokenizer into tokens separated by spaces.

    The tokenizer reads and writes one text a line and has more line separators than the newline. Each of these in a
    text would silently shift all texts after it to other images, so that whitespace is normalized first. Letters with
    marks are composed (Unicode NFC), so that equal words have equal tokens.

    Raises:
        RuntimeError: If the tokenizer fails.
    """
    lines = [unicodedata.normalize("NFC", " ".join(text.split())) for captions in texts.values() for text in captions]
    tokenized = iter(tokenize_lines([line.encode(errors="replace").decode() for line in lines]))
    return {image: [next(tokenized) for _ in captions] for image, captions in texts.items()}


def signature(
    split: str,
    references: Mapping[int, Sequence[str]],
    decoding: str,
    *,
    meteor: bool = True,
    num_captioned: int | None = None,
) -> str:
    """Return everything that must be equal for two scores to be comparable, in one line.

    Args:
        split: Name of the split.
        references: Reference captions by image id.
        decoding: Options and model that made the captions.
        meteor: Whether METEOR is one of the scores.
        num_captioned: Number of images with a caption; default: all. It is shown if it is less.
    """
    counts = sorted({len(texts) for texts in references.values()})
    refs = str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    scorers = f"tok:{TOKENIZER}|cider-d:idf=refs" + (f"|meteor:{VERSION}" if meteor else "")
    coverage = "" if num_captioned in (None, len(references)) else f"|captioned:{num_captioned}"
    return f"{split}|n:{len(references)}{coverage}|refs:{refs}|{scorers}|{decoding}"

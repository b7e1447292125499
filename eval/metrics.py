"""Scores captions against references with pycocoevalcap's own code, as the papers do."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from eval.java import ensure_java
from eval.meteor import VERSION, Meteor

TOKENIZER = "ptb3.4.1"
ORDER = 4  # BLEU's longest n-gram
METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr", "SPICE")


@dataclass(frozen=True)
class CaptionScores:
    """A split's captions as measured.

    Attributes:
        images: ids, in the order of the rows below.
        references: as the tokenizer gives them, by image id.
        tokens: the captions as the tokenizer gives them, by image id.
        scores: `Bleu_1` … `Bleu_4`, `METEOR` if asked for, `ROUGE_L` (0 to 1) and `CIDEr` (0 to 10), of all images.
        bleu: (images, 10): n-grams that are in a reference, n-grams there are, each for n = 1 … 4; words of the
            caption, words of the reference nearest in length. All of a set's BLEU follows from their sums.
        meteor: (images, 23), see `Meteor.statistics`; None where METEOR was not asked for.
        each: for `Bleu_4`, `METEOR`, `ROUGE_L` and `CIDEr` the score of each image (images,). BLEU's and METEOR's of
            all are not their mean.
    """

    images: list[int]
    references: dict[int, list[str]]
    tokens: dict[int, str]
    scores: dict[str, float]
    bleu: np.ndarray
    meteor: np.ndarray | None
    each: dict[str, np.ndarray]


def score_captions(
    references: Mapping[int, Sequence[str]], captions: Mapping[int, str], *, meteor: bool | Meteor = True
) -> dict[str, float]:
    """The scores of `compute_metrics` alone; arguments and errors as there."""
    return compute_metrics(references, captions, meteor=meteor).scores


def compute_metrics(
    references: Mapping[int, Sequence[str]], captions: Mapping[int, str], *, meteor: bool | Meteor = True
) -> CaptionScores:
    """BLEU-1..4, METEOR, ROUGE-L and CIDEr-D of a split, by pycocoevalcap's own code.

    CIDEr's IDF comes from these references, as in coco-caption, so a part's score does not compare with the whole's.

    Args:
        references: image id → its reference captions.
        captions: image id → the caption to score; an empty one counts as such.
        meteor: METEOR, too, which takes 5 to 10 s, 3 ms more for each image, and 1.2 GB of memory; or a METEOR that
            runs already, which saves the seconds.

    Raises:
        ValueError: the two do not name the same images, or there are none.
        RuntimeError: the tokenizer or METEOR's program broke off.
    """
    if not references or references.keys() != captions.keys():
        raise ValueError(
            f"{len(references.keys() - captions.keys())} images have no caption and "
            f"{len(captions.keys() - references.keys())} captions have no image, of {len(references)} images."
        )
    ensure_java()  # the tokenizer is a Java program
    tokenized = _tokenized({image: [*texts, captions[image]] for image, texts in references.items()})  # in one start
    wanted = {image: texts[:-1] for image, texts in tokenized.items()}
    found = {image: texts[-1:] for image, texts in tokenized.items()}
    tokens = {image: text for image, (text,) in found.items()}
    scorer = BleuScorer(n=ORDER)
    for image, texts in wanted.items():
        scorer += (tokens[image], texts)
    bleu, bleu_each = scorer.compute_score(option="closest")
    scores = {f"Bleu_{n}": score for n, score in enumerate(bleu, 1)}
    each = {"Bleu_4": bleu_each[-1]}
    statistics = None
    if meteor:
        with nullcontext(meteor) if isinstance(meteor, Meteor) else Meteor() as program:
            statistics = program.statistics(wanted, tokens)
            scores["METEOR"], each["METEOR"] = program.evaluate(statistics)
    for name, coco in (("ROUGE_L", Rouge()), ("CIDEr", Cider())):
        scores[name], each[name] = coco.compute_score(wanted, found)
    return CaptionScores(
        images=list(wanted),
        references=wanted,
        tokens=tokens,
        scores={name: float(score) for name, score in scores.items()},
        bleu=np.array([_bleu_row(image) for image in scorer.ctest], dtype=np.float64),
        meteor=statistics,
        each={name: np.asarray(values, dtype=np.float64) for name, values in each.items()},
    )


def _bleu_row(image: dict) -> list[int]:
    length = image["testlen"]
    nearest = min((abs(words - length), words) for words in image["reflen"])[1]
    return [*image["correct"], *image["guess"], length, nearest]


def bleu_of(sums: np.ndarray) -> np.ndarray:
    """BLEU-1..4 (…, 4) of sets of images, from the sums (…, 10) of their rows in `CaptionScores.bleu`.

    The formula and its small constants are pycocoevalcap's, so that a whole split gets the same number.
    """
    correct, guess, words, nearest = sums[..., :ORDER], sums[..., ORDER : 2 * ORDER], sums[..., -2], sums[..., -1]
    precisions = np.cumprod((correct + 1e-15) / (guess + 1e-9), -1) ** (1 / np.arange(1, ORDER + 1))
    ratio = (words + 1e-15) / (nearest + 1e-9)
    return precisions * np.exp(np.minimum(0.0, 1 - 1 / ratio))[..., None]


def _tokenized(texts: Mapping[int, Sequence[str]]) -> dict[int, list[str]]:
    """The PTB tokenizer's words, joined by blanks.

    The tokenizer reads and writes a text a line, and takes more characters for a line's end than a newline: each
    of them would shift all texts after it to other images without a word.
    """
    lines = {image: [{"caption": " ".join(text.split())} for text in some] for image, some in texts.items()}
    tokenized = PTBTokenizer().tokenize(lines)
    for image, some in texts.items():
        if len(tokenized.get(image, ())) != len(some):
            raise RuntimeError(
                f"The tokenizer gave back {len(tokenized.get(image, ()))} of {len(some)} texts of {image}."
            )
    return tokenized


def signature(split: str, references: Mapping[int, Sequence[str]], decoding: str, *, meteor: bool = True) -> str:
    """What has to be the same for two scores to compare, in one line; `meteor` says whether METEOR is one of them."""
    counts = sorted({len(texts) for texts in references.values()})
    spread = str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    scorers = f"tok:{TOKENIZER}|cider-d:idf=refs" + (f"|meteor:{VERSION}" if meteor else "")
    return f"{split}|n:{len(references)}|refs:{spread}|{scorers}|{decoding}"

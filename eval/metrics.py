"""Scores captions against references with pycocoevalcap's own code, as the papers do."""

from collections.abc import Mapping, Sequence

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from deploy.java import ensure_java
from eval.meteor import VERSION, Meteor

TOKENIZER = "ptb3.4.1"


def score_captions(
    references: Mapping[int, Sequence[str]], captions: Mapping[int, str], *, meteor: bool = True
) -> dict[str, float]:
    """BLEU-1..4, METEOR, ROUGE-L and CIDEr-D of a split.

    CIDEr's IDF comes from these references, as in coco-caption, so a part's score does not compare with the whole's.

    Args:
        references: image id → its reference captions.
        captions: image id → the caption to score; an empty one counts as such.
        meteor: METEOR, too, which takes 5 to 10 s, 3 ms more for each image, and 1.2 GB of memory.

    Returns:
        `Bleu_1` … `Bleu_4`, `METEOR` if asked for, `ROUGE_L` (0 to 1) and `CIDEr` (0 to 10), each over all images.

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
    wanted = _tokenized(references)
    found = _tokenized({image: [caption] for image, caption in captions.items()})
    bleu, _ = Bleu(4).compute_score(wanted, found, verbose=0)
    scores = {f"Bleu_{n}": score for n, score in enumerate(bleu, 1)}
    if meteor:
        with Meteor() as program:
            scores["METEOR"], _ = program.score(wanted, {image: text for image, (text,) in found.items()})
    scores["ROUGE_L"], _ = Rouge().compute_score(wanted, found)
    scores["CIDEr"], _ = Cider().compute_score(wanted, found)
    return {name: float(score) for name, score in scores.items()}


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

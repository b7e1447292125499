"""Measures of degeneration: how far the captions of a system are from those that people write of the same images.

Scores against references do not show that captions are all alike. Each measure here stands beside the same measure of
people: reference k of each image is held out as the caption of a person, for k = 0 … 4, and what the measure compares
captions with comes from the remaining references, for the person and for the system. All values are means over k, so
both have equally many captions and references. Images with one reference are left out.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eval.copies import copied_share
from eval.endings import bad_endings
from eval.likeness import RUN_LENGTH, has_marker, likeness, mark_ends
from eval.ngrams import EncodedTexts
from eval.overuse import OverusedRun, overused_runs
from eval.parts_of_speech import TaggedWord, Tagger, is_installed
from eval.repetition import repeat_share
from eval.word_recall import word_recall

# Groups of words by the share of images whose references have them, at least.
FREQUENCIES = {"common_words": 0.02, "medium_words": 0.004, "rare_words": 0.0}

MAX_FOLDS = 5  # references of an image that are held out in turn

Tokens = list[str]
Pair = dict[str, float | None]  # {"model": …, "people": …}; people is None if no image has two references


class Measures(NamedTuple):
    """Measures of captions and of people.

    Attributes:
        pairs: `{"model": …, "people": …}` by measure.
        overused: The runs of three words that captions have most oftener than people's.
    """

    pairs: dict[str, Pair]
    overused: list[OverusedRun]


class _Corpus(NamedTuple):
    """Captions of a split as tokens: those of the model, and the references that are held out in turn."""

    model: list[Tokens]
    people: list[list[Tokens]]  # by fold, then by image
    references: list[list[Tokens]]  # by image


def measure_captions(
    references: Mapping[int, Sequence[str]], captions: Mapping[int, str], known: Collection[str] = ()
) -> Measures:
    """Measure captions beside people's.

    Args:
        references: Tokenized references by image id, tokens separated by spaces.
        captions: Tokenized caption by image id.
        known: Captions of the training split as `eval.copies.normalize_all` returns them, to count copies.
    """
    corpus = _split_folds(references, captions)
    of_corpus: dict[str, Callable[[Sequence[Tokens]], float]] = {
        "repeats": repeat_share,
        "words_used": lambda texts: len({token for tokens in texts for token in tokens}),
        "distinct": lambda texts: len(set(map(tuple, texts))) / len(texts),
        "words_per_caption": lambda texts: sum(map(len, texts)) / len(texts),
        "bad_endings": lambda texts: bad_endings(map(" ".join, texts)),
    }
    if known:
        of_corpus["copied"] = lambda texts: copied_share(list(map(" ".join, texts)), known)
    pairs = {
        name: _pair(measure(corpus.model), [measure(texts) for texts in corpus.people])
        for name, measure in of_corpus.items()
    }
    runs = _measure_runs(corpus)
    return Measures(pairs | runs.pairs | _measure_recall(corpus), runs.overused)


def measured_images(references: Mapping[int, Sequence[str]]) -> list[int]:
    """Return the images with two references or more; all images if there is none, so that people are not measured."""
    return [image for image, texts in references.items() if len(texts) > 1] or list(references)


def _split_folds(references: Mapping[int, Sequence[str]], captions: Mapping[int, str]) -> _Corpus:
    images = measured_images(references)
    fewest = min(len(references[image]) for image in images)
    num_folds = min(MAX_FOLDS, fewest) if fewest > 1 else 0
    of_image = [[text.split() for text in references[image]] for image in images]
    model = [captions[image].split() for image in images]
    return _Corpus(model, [[texts[fold] for texts in of_image] for fold in range(num_folds)], of_image)


def _pair(model: float, people: Sequence[float]) -> Pair:
    return {"model": model, "people": float(np.mean(people)) if people else None}


def _measure_runs(corpus: _Corpus) -> Measures:
    """Measure the distribution of three-word runs: overused runs, the commonest run, and likeness."""
    num_folds = len(corpus.people)
    rest = [text for texts in corpus.references for text in texts[num_folds:]]  # never held out
    groups = [corpus.model, *corpus.people, rest]
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    runs = EncodedTexts([mark_ends(text) for group in groups for text in group]).ngrams(RUN_LENGTH)

    texts = runs.count_texts(group_of, len(groups))
    texts[:, has_marker(runs)] = 0  # runs of words alone are named
    largest = texts.max(1, initial=0) / len(corpus.model)
    pairs = {"commonest_run": _pair(float(largest[0]), largest[1:-1].tolist())}
    if not num_folds:
        return Measures(pairs, [])
    overused = overused_runs(runs, texts[0], texts[1:].sum(0), len(corpus.model), int((group_of > 0).sum()))

    counts = runs.count(group_of, len(groups))
    remaining = counts[1:].sum(0) - counts[1:-1]  # (folds, runs)
    model = [likeness(counts[0], people) for people in remaining]
    people = [likeness(held_out, people) for held_out, people in zip(counts[1:-1], remaining, strict=True)]
    return Measures(pairs | {"likeness": _pair(float(np.mean(model)), people)}, overused)


def _measure_recall(corpus: _Corpus) -> dict[str, Pair]:
    """Measure the recall of the words that two references share, by part of speech and by frequency."""
    if not corpus.people or not is_installed():
        return {}
    tagger = Tagger(tokens for texts in corpus.references for tokens in texts)
    model = [tagger.tag(tokens) for tokens in corpus.model]
    references = [[tagger.tag(tokens) for tokens in texts] for texts in corpus.references]
    images_with = Counter(word for texts in references for word in set().union(*texts))

    def frequency(word: TaggedWord) -> str:
        share = images_with[word] / len(references)
        return next(name for name, least in FREQUENCIES.items() if share >= least)

    groupings = [lambda word: word.part, frequency]
    of_model, of_people = word_recall(model, references, len(corpus.people), groupings)
    return {
        f"recall_{part}": _pair(float(np.mean([fold[part] for fold in of_model])), [fold[part] for fold in of_people])
        for part in of_model[0]
        if all(part in fold for fold in of_model)  # with two references, none remain that share a word
    }

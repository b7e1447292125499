"""METEOR of single captions, by the jar that scores: it knows stems, synonyms and paraphrases."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from eval.meteor import Meteor, MeteorError
from handler.modeling.vocabulary import Vocabulary
from handler.parallel import available_cpus

MOST_JARS = 4  # more of them would wait for the samples


class SentenceMeteor:
    """METEOR of token ids, each caption by itself.

    The jars start with the first caption; one takes 3 ms a caption on a core of its own, and 1.2 GB. There is one for
    each four cores, shared by the processes of a machine; on fewer cores a process has one. What was sampled twice of
    an image is scored once.

    Args:
        references: for each image its reference captions as token ids; `<end>` is left out.
        vocabulary: the ids'.

    Raises:
        MeteorError: the jar does not start.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], vocabulary: Vocabulary):
        self.references, self.vocabulary = references, vocabulary
        count = available_cpus() // (4 * int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        self._jars = [_Jar() for _ in range(max(1, min(MOST_JARS, count)))]
        self._threads = ThreadPoolExecutor(len(self._jars), thread_name_prefix="meteor")
        with Meteor() as jar:  # what is amiss is told now, not after hours of cross-entropy
            jar.score({0: ["a"]}, {0: "a"})

    def score(self, images: Sequence[int], captions: Sequence[Sequence[int]]) -> np.ndarray:
        """The METEOR of each caption against the references of its image.

        Args:
            images: each caption's image, counted from 0 in the order of the references.
            captions: token ids; an empty caption scores 0.

        Returns:
            (captions,), float64, 0 to 1.

        Raises:
            MeteorError: a jar ended twice.
        """
        if not len(captions):
            return np.zeros(0)
        texts = {image: [self._text(ids) for ids in self.references[image]] for image in set(images)}
        asked = [(image, self._text(ids)) for image, ids in zip(images, captions, strict=True)]
        distinct = list(dict.fromkeys(asked))
        shares = [distinct[place :: len(self._jars)] for place in range(len(self._jars))]
        wanted = [[texts[image] for image, _ in share] for share in shares]
        said = [[text for _, text in share] for share in shares]
        scores: dict[tuple[int, str], float] = {}
        for share, found in zip(shares, self._threads.map(_Jar.score, self._jars, wanted, said), strict=True):
            scores |= dict(zip(share, found, strict=True))
        return np.array([scores[pair] for pair in asked])

    def _text(self, ids: Sequence[int]) -> str:
        return " ".join(self.vocabulary.decode(i for i in ids if i != self.vocabulary.eos_id))


class _Jar:
    """METEOR, started when it is first asked, and once a call anew where it has ended."""

    def __init__(self) -> None:
        self.meteor: Meteor | None = None

    def score(self, references: Sequence[Sequence[str]], captions: Sequence[str]) -> list[float]:
        """Each caption's score against its references."""
        if not captions:
            return []
        wanted, said = dict(enumerate(references)), dict(enumerate(captions))
        try:
            self.meteor = self.meteor or Meteor()
            return self.meteor.score(wanted, said)[1]
        except MeteorError as error:
            print(f"{error} It is started anew.", file=sys.stderr)
            self.meteor = Meteor()
            return self.meteor.score(wanted, said)[1]

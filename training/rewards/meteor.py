"""METEOR of single captions, by the jar that scores: it knows stems, synonyms and paraphrases."""

import sys
from collections.abc import Sequence

import numpy as np

from eval.meteor import Meteor, MeteorError
from handler.vocabulary import Vocabulary


class SentenceMeteor:
    """METEOR of token ids, each caption by itself.

    The jar starts with the first caption; it takes 3 ms a caption on another core, and 1.2 GB, in each process. Once a
    call one that has ended is started anew.

    Args:
        references: for each image its reference captions as token ids; `<end>` is left out.
        vocabulary: the ids'.

    Raises:
        MeteorError: the jar does not start.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], vocabulary: Vocabulary):
        self.references, self.vocabulary = references, vocabulary
        self._jar: Meteor | None = None
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
            MeteorError: the jar ended twice.
        """
        if not len(captions):
            return np.zeros(0)
        texts = {image: [self._text(ids) for ids in self.references[image]] for image in set(images)}
        wanted = {place: texts[image] for place, image in enumerate(images)}
        said = {place: self._text(ids) for place, ids in enumerate(captions)}
        try:
            self._jar = self._jar or Meteor()
            return np.array(self._jar.score(wanted, said)[1])
        except MeteorError as error:
            print(f"{error} It is started anew.", file=sys.stderr)
            self._jar = Meteor()
            return np.array(self._jar.score(wanted, said)[1])

    def _text(self, ids: Sequence[int]) -> str:
        return " ".join(self.vocabulary.decode(i for i in ids if i != self.vocabulary.end))

"""METEOR of single captions, by the jar that scores: it knows stems, synonyms and paraphrases."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from eval.meteor import Meteor
from handler.vocabulary import Vocabulary


class SentenceMeteor:
    """METEOR of token ids, each caption by itself.

    The jar starts with the first caption; it takes 3 ms a caption on another core, and 1.2 GB, in each process.

    Args:
        references: for each image its reference captions as token ids; `<end>` is left out.
        vocabulary: the ids'.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], vocabulary: Vocabulary):
        self.references, self.vocabulary = references, vocabulary

    @cached_property
    def _jar(self) -> Meteor:
        return Meteor()

    def score(self, images: Sequence[int], captions: Sequence[Sequence[int]]) -> np.ndarray:
        """The METEOR of each caption against the references of its image.

        Args:
            images: each caption's image, counted from 0 in the order of the references.
            captions: token ids; an empty caption scores 0.

        Returns:
            (captions,), float64, 0 to 1.

        Raises:
            RuntimeError: there is no Java, or the jar ended.
        """
        if not len(captions):
            return np.zeros(0)
        texts = {image: [self._text(ids) for ids in self.references[image]] for image in set(images)}
        wanted = {place: texts[image] for place, image in enumerate(images)}
        return np.array(self._jar.score(wanted, {place: self._text(ids) for place, ids in enumerate(captions)})[1])

    def _text(self, ids: Sequence[int]) -> str:
        return " ".join(self.vocabulary.decode(i for i in ids if i != self.vocabulary.end))

"""METEOR of single captions, by the Java program that also scores splits. It knows stems, synonyms and paraphrases."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from eval.meteor import Meteor, MeteorError
from handler.modeling.vocabulary import Vocabulary
from handler.parallel import available_cpus

MAX_PROCESSES = 4  # more would wait for the samples
CPUS_PER_PROCESS = 4

Pair = tuple[int, str]  # index of an image, caption


class SentenceMeteor:
    """METEOR of token ids, for each caption separately.

    The Java processes start with the first caption. A process needs 3 ms per caption on a free CPU, and 1.2 GB. There
    is one per four CPUs, shared by the training processes of a machine, and at least one per training process. A
    caption that was sampled twice for an image is scored once.

    Args:
        references: Reference captions of each image as token ids; `<end>` is ignored.
        vocabulary: Vocabulary of the ids.

    Raises:
        MeteorError: If METEOR does not start.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], vocabulary: Vocabulary) -> None:
        self.references, self.vocabulary = references, vocabulary
        count = available_cpus() // (CPUS_PER_PROCESS * int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        self._processes = [_MeteorProcess() for _ in range(max(1, min(MAX_PROCESSES, count)))]
        self._threads = ThreadPoolExecutor(len(self._processes), thread_name_prefix="meteor")
        with Meteor() as meteor:  # report a missing Java now, not after hours of cross-entropy
            meteor.score({0: ["a"]}, {0: "a"})

    def score(self, images: Sequence[int], captions: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Score each caption against the references of its image.

        Args:
            images: Index of the image of each caption, in the order of the references.
            captions: Token ids; an empty caption scores 0.

        Returns:
            (captions,), 0 to 1.

        Raises:
            MeteorError: If a process ends twice.
        """
        if not len(captions):
            return np.zeros(0)
        texts = {image: [self._text(ids) for ids in self.references[image]] for image in set(images)}
        pairs = [(image, self._text(ids)) for image, ids in zip(images, captions, strict=True)]
        distinct = list(dict.fromkeys(pairs))
        shares = [distinct[index :: len(self._processes)] for index in range(len(self._processes))]
        references = [[texts[image] for image, _ in share] for share in shares]
        hypotheses = [[text for _, text in share] for share in shares]
        results = self._threads.map(_MeteorProcess.score, self._processes, references, hypotheses)
        scores: dict[Pair, float] = {}
        for share, share_scores in zip(shares, results, strict=True):
            scores |= dict(zip(share, share_scores, strict=True))
        return np.array([scores[pair] for pair in pairs])

    def _text(self, ids: Sequence[int]) -> str:
        return " ".join(self.vocabulary.decode(i for i in ids if i != self.vocabulary.eos_id))


class _MeteorProcess:
    """METEOR, started at the first call, and restarted once per call if it has ended."""

    def __init__(self) -> None:
        self.meteor: Meteor | None = None

    def score(self, references: Sequence[Sequence[str]], captions: Sequence[str]) -> list[float]:
        """Score each caption against its references."""
        if not captions:
            return []
        references_by_id, captions_by_id = dict(enumerate(references)), dict(enumerate(captions))
        try:
            self.meteor = self.meteor or Meteor()
            return self.meteor.score(references_by_id, captions_by_id)[1]
        except MeteorError as error:
            print(f"{error} Restarting it.", file=sys.stderr)
            self.meteor = Meteor()
            return self.meteor.score(references_by_id, captions_by_id)[1]

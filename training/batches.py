"""Batches for teacher forcing: an image's grid with several of its captions, in an order that a step's number decides.

Nothing here keeps a state: the same seed and step give the same batch, so that a run goes on exactly where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from handler.vocabulary import Vocabulary
from training.coco import CaptionedImage
from training.tokenizer import tokenize

SIDED = {"left", "right"}


@dataclass(frozen=True)
class Batch:
    """B images with K captions each, padded with `<pad>` to T; a caption that an image lacks is padding alone."""

    grid: torch.Tensor  # float32 (B, cells, C)
    inputs: torch.Tensor  # (B, K, T): `<start>`, then the words
    targets: torch.Tensor  # (B, K, T): the words, then `<end>`


class Batches:
    """The training split, cut into batches anew each epoch.

    Args:
        images: the split.
        grids: float16 (images, 1 or 2, cells, C), see `features.cached_grids`.
        vocabulary: words it lacks become `<unk>`.
        batch_size: images a batch.
        captions_per_image: captions of an image in a batch, drawn anew each time where it has more.
        max_words: longer captions are cut, and then do not learn an end.
        seed: of order, drawing and mirroring.
    """

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        grids: np.ndarray,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        captions_per_image: int,
        max_words: int,
        seed: int,
    ):
        self.grids, self.vocabulary = grids, vocabulary
        self.batch_size, self.captions_per_image, self.seed = batch_size, captions_per_image, seed
        words = [[tokenize(caption) for caption in image.captions] for image in images]
        self.captions = [[self._ids(caption, max_words) for caption in captions] for captions in words]
        # In the mirror "left" is right: a picture whose captions speak of sides is never mirrored.
        sided = np.array([any(SIDED & set(caption) for caption in captions) for captions in words])
        self.mirrored = ~sided if grids.shape[1] == 2 else np.zeros(len(images), dtype=bool)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.captions) // self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, counted over all epochs from 0."""
        epoch, place = divmod(step, len(self))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.captions))
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        draw = np.random.default_rng([self.seed, epoch, place])
        flip = (draw.random(len(chosen)) < 0.5) & self.mirrored[chosen]
        grid = torch.from_numpy(np.stack([self.grids[i, int(f)] for i, f in zip(chosen, flip, strict=True)]))
        captions = [self._draw(self.captions[i], draw) for i in chosen]
        longest = max(len(ids) for some in captions for ids in some)
        tokens = torch.full((len(chosen), self.captions_per_image, longest), self.vocabulary.pad)
        for row, some in enumerate(captions):
            for column, ids in enumerate(some):
                tokens[row, column, : len(ids)] = torch.tensor(ids)
        inputs, targets = tokens[..., :-1].clone(), tokens[..., 1:]
        inputs[inputs == self.vocabulary.end] = self.vocabulary.pad
        return Batch(grid.float(), inputs, targets)

    def _ids(self, words: list[str], max_words: int) -> list[int]:
        ids = [self.vocabulary.start, *self.vocabulary.encode(words[:max_words])]
        return ids if len(words) > max_words else [*ids, self.vocabulary.end]

    def _draw(self, captions: list[list[int]], draw: np.random.Generator) -> list[list[int]]:
        if len(captions) <= self.captions_per_image:
            return captions
        return [captions[i] for i in draw.choice(len(captions), self.captions_per_image, replace=False)]

"""Training batches: images or cached features with captions, in an order determined by the step number.

The data set is stateless: the same seed and step give the same batch with any number of processes, so a run resumes
at the exact step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from eval.data import CaptionedImage
from handler.modeling.vocabulary import Vocabulary, tokenize
from handler.preprocessing import Preprocessing
from training.data.augmentation import Augmentation
from training.data.image_loading import load_image


@dataclass(frozen=True)
class CaptionBatch:
    """B images with K captions each, padded to T tokens; a missing caption is padding only."""

    images: torch.Tensor  # float16 features (B, cells, C), or uint8 pixels (B, 3, size, size)
    inputs: torch.Tensor  # (B, K, T): `<start>`, then the tokens; the longest caption of an image first
    targets: torch.Tensor  # (B, K, T): the tokens, then `<end>`
    indices: list[int]  # of the images in the training split

    def to(self, device: torch.device) -> "CaptionBatch":
        """Return the batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def pin_memory(self) -> "CaptionBatch":
        """Return the batch in page-locked memory; the PyTorch data loader calls this."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> "CaptionBatch":
        return CaptionBatch(fn(self.images), fn(self.inputs), fn(self.targets), self.indices)


class ImageSource(Protocol):
    """Pixels or features of training images."""

    def __call__(self, indices: Sequence[int], seeds: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the images at `indices` of the split, each in the random view of its seed."""


class CachedFeatures:
    """Images as cached features of a frozen encoder.

    Args:
        views: For each view its parts, each float16 (images, cells, C), which together hold the split. A step takes a
            random view of each image.
    """

    def __init__(self, views: Sequence[Sequence[np.ndarray[Any, Any]]]) -> None:
        self.views = views
        self.rows = [(part, row) for part, features in enumerate(views[0]) for row in range(len(features))]

    def __call__(self, indices: Sequence[int], seeds: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return features (B, cells, C)."""
        features = []
        for index, seed in zip(indices, seeds, strict=True):
            view = int(np.random.default_rng(seed).integers(len(self.views)))
            part, row = self.rows[index]
            features.append(self.views[view][part][row])
        return torch.from_numpy(np.stack(features))


@dataclass(frozen=True)
class ImageFiles:
    """Images read from their files, each time in another random view."""

    images: Sequence[CaptionedImage]
    preprocessing: Preprocessing
    augmentation: Augmentation

    def __call__(self, indices: Sequence[int], seeds: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return uint8 pixels (B, 3, size, size)."""
        return torch.stack(
            [
                load_image(self.images[index], self.preprocessing, self.augmentation, seed)
                for index, seed in zip(indices, seeds, strict=True)
            ]
        )


class CaptionDataset(torch.utils.data.Dataset[CaptionBatch]):
    """The training split as batches, shuffled anew each epoch. An incomplete last batch is dropped.

    Args:
        images: The split.
        source: Loads the pixels or features of the images.
        vocabulary: Unknown words become `<unk>`.
        weights: Times that each image occurs in an epoch, ≥ 0; the fraction is the share of the images with that weight
            that occur once more, sampled anew each epoch. Default: 1 for each.
        batch_size: Images per step, over all processes.
        captions_per_image: Captions per image in a batch, sampled anew each epoch if an image has more.
        max_length: Maximum length of a caption in tokens. A truncated caption has no `<end>`.
        seed: Seed of order, sampling and augmentation.
        rank: Rank of this process.
        world_size: Number of processes that share a step.

    Raises:
        ValueError: If a process would get no image, or an image has no caption with a word.
    """

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        source: ImageSource,
        vocabulary: Vocabulary,
        *,
        weights: Sequence[float] | None = None,
        batch_size: int,
        captions_per_image: int,
        max_length: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source, self.vocabulary = source, vocabulary
        self.weights = np.array([1.0] * len(images) if weights is None else weights)
        self.seed = seed
        self._epoch_indices = lru_cache(maxsize=1)(self._sample_epoch)  # the same for all steps of an epoch
        self.images_per_epoch = len(self._epoch_indices(0))
        self.batch_size = min(batch_size, self.images_per_epoch)
        self.captions_per_image = captions_per_image
        self.rank, self.world_size = rank, world_size
        if self.batch_size < world_size:
            raise ValueError(f"A step has {self.batch_size} images, too few for {world_size} processes.")
        tokenized = [[tokenize(text) for text in image.captions] for image in images]
        self.captions = [[self._encode(words, max_length) for words in captions if words] for captions in tokenized]
        if not all(self.captions):
            image_id = images[self.captions.index([])].id
            raise ValueError(f"The image {image_id} has no caption with a word: remove it from the split.")

    def __len__(self) -> int:
        """Return the steps per epoch."""
        return self.images_per_epoch // self.batch_size

    def __getitem__(self, step: int) -> CaptionBatch:
        """Return the share of this process in a step, counted over all epochs from 0."""
        epoch, index = divmod(step, len(self))
        order = self._epoch_indices(epoch)
        first = index * self.batch_size + self.rank
        positions = range(first, (index + 1) * self.batch_size, self.world_size)
        indices = [int(order[position]) for position in positions]
        captions = [
            self._sample_captions(self.captions[i], np.random.default_rng([self.seed, epoch, position, 1]))
            for i, position in zip(indices, positions, strict=True)
        ]
        inputs, targets = collate_captions(captions, self.captions_per_image, self.vocabulary)
        seeds = [[self.seed, epoch, position] for position in positions]
        return CaptionBatch(self.source(indices, seeds), inputs, targets, indices)

    def _sample_epoch(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the indices of the images of an epoch in random order; an image can occur several times."""
        rng = np.random.default_rng([self.seed, epoch])
        copies = np.floor(self.weights).astype(int)
        for weight in np.unique(self.weights):  # a fixed number for each weight, so all epochs have the same length
            members = np.flatnonzero(self.weights == weight)
            extra = round((weight - math.floor(weight)) * len(members))
            copies[rng.permutation(members)[:extra]] += 1
        return rng.permutation(np.repeat(np.arange(len(copies)), copies))

    def _encode(self, words: list[str], max_length: int) -> list[int]:
        """Encode words as ids, with `<end>` unless truncated."""
        ids = self.vocabulary.encode(words[:max_length])
        return ids if len(words) > max_length else [*ids, self.vocabulary.eos_id]

    def _sample_captions(self, captions: list[list[int]], rng: np.random.Generator) -> list[list[int]]:
        if len(captions) > self.captions_per_image:
            captions = [captions[i] for i in rng.choice(len(captions), self.captions_per_image, replace=False)]
        return sorted(captions, key=len, reverse=True)


def collate_captions(
    captions: Sequence[Sequence[Sequence[int]]], width: int, vocabulary: Vocabulary
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad caption ids of B images, at most `width` = K each, to inputs and targets (B, K, T) of a `CaptionBatch`."""
    longest = max(len(ids) for image_captions in captions for ids in image_captions)
    inputs = torch.full((len(captions), width, longest), vocabulary.pad_id)
    targets = inputs.clone()
    for row, image_captions in enumerate(captions):
        for column, ids in enumerate(image_captions):
            targets[row, column, : len(ids)] = torch.tensor(ids)
            inputs[row, column, : len(ids)] = torch.tensor([vocabulary.bos_id, *ids[:-1]])
    return inputs, targets

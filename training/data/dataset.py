"""A step's pictures and captions, in an order that the step's number decides.

Nothing here keeps a state: the same seed and step give the same batch, so that a run goes on exactly where it stopped,
with however many processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from eval.coco import CaptionedImage
from handler.modeling.vocabulary import Vocabulary, tokenize
from handler.preprocessing import Preprocessing
from training.data.augmentation import Augmentation
from training.data.feature_cache import read_pixels


@dataclass(frozen=True)
class Batch:
    """B images with K captions each, padded with `<pad>` to T; a caption that an image lacks is padding alone."""

    pictures: torch.Tensor  # float16 grid (B, cells, C), or uint8 pixels (B, 3, size, size)
    inputs: torch.Tensor  # (B, K, T): `<start>`, then the words; an image's longest caption first
    targets: torch.Tensor  # (B, K, T): the words, then `<end>`
    images: list[int]  # places in the training split

    def pin_memory(self) -> "Batch":
        """The same in memory that a GPU copies from by itself; PyTorch's loader calls it."""
        return Batch(*(part.pin_memory() for part in (self.pictures, self.inputs, self.targets)), self.images)


class CachedFeatures:
    """Pictures as a frozen encoder's cached grids.

    Args:
        views: of each view its parts, float16 (images, cells, C), which together hold the split; a step takes any view.
    """

    def __init__(self, views: Sequence[Sequence[np.ndarray]]):
        self.views = views
        self.places = [(part, row) for part, grids in enumerate(views[0]) for row in range(len(grids))]

    def __call__(self, images: Sequence[int], epoch: int, seed: int) -> torch.Tensor:
        grids = []
        for image in images:
            view = np.random.default_rng([seed, epoch, image]).integers(len(self.views))
            part, row = self.places[image]
            grids.append(self.views[view][part][row])
        return torch.from_numpy(np.stack(grids))


@dataclass(frozen=True)
class Pictures:
    """Pictures read from their files, another random view each time."""

    images: Sequence[CaptionedImage]
    preprocessing: Preprocessing
    augmentation: Augmentation

    def __call__(self, images: Sequence[int], epoch: int, seed: int) -> torch.Tensor:
        return torch.stack(
            [read_pixels(self.images[i], self.preprocessing, self.augmentation, [seed, epoch, i]) for i in images]
        )


class CaptionDataset(torch.utils.data.Dataset):
    """The training split, cut into batches anew each epoch; what is left over when cutting joins in other epochs.

    Args:
        images: the split.
        pictures: (places in the split, epoch, seed) → their grids or pixels.
        vocabulary: words it lacks become `<unk>`.
        batch_size: images a step, over all processes.
        captions_per_image: captions of an image in a batch, drawn anew each time where it has more.
        max_words: longer captions are cut, and then do not learn an end.
        seed: of order, drawing and views.
        rank: of the processes, this one.
        processes: that share a step.

    Raises:
        ValueError: a process would be left without a picture, or a picture has no caption with a word in it.
    """

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        pictures: CachedFeatures | Pictures,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        captions_per_image: int,
        max_words: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ):
        self.pictures, self.vocabulary = pictures, vocabulary
        self.batch_size, self.captions_per_image, self.seed = min(batch_size, len(images)), captions_per_image, seed
        self.rank, self.processes = rank, processes
        if self.batch_size < processes:
            raise ValueError(f"A step has {self.batch_size} images, too few for {processes} processes.")
        words = [[tokenize(text) for text in image.captions] for image in images]
        self.captions = [[self._ids(caption, max_words) for caption in some if caption] for some in words]
        if not all(self.captions):
            first = images[self.captions.index([])].id
            raise ValueError(f"The image {first} has no caption with a word in it: take it out of the split.")

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self.captions) // self.batch_size

    def __getitem__(self, step: int) -> Batch:
        """This process's share of a step, counted over all epochs from 0."""
        epoch, place = divmod(step, len(self))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.captions))
        whole = order[place * self.batch_size : (place + 1) * self.batch_size]
        chosen = whole[self.rank :: self.processes].tolist()
        captions = [self._draw(self.captions[i], np.random.default_rng([self.seed, epoch, i, 1])) for i in chosen]
        inputs, targets = collate_captions(captions, self.captions_per_image, self.vocabulary)
        return Batch(self.pictures(chosen, epoch, self.seed), inputs, targets, chosen)

    def _ids(self, words: list[str], max_words: int) -> list[int]:
        """Words → ids, ended with `<end>` unless cut."""
        ids = self.vocabulary.encode(words[:max_words])
        return ids if len(words) > max_words else [*ids, self.vocabulary.eos_id]

    def _draw(self, captions: list[list[int]], draw: np.random.Generator) -> list[list[int]]:
        if len(captions) > self.captions_per_image:
            captions = [captions[i] for i in draw.choice(len(captions), self.captions_per_image, replace=False)]
        return sorted(captions, key=len, reverse=True)


def collate_captions(
    captions: Sequence[Sequence[Sequence[int]]], width: int, vocabulary: Vocabulary
) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions' ids for B images, at most `width` = K of each → inputs and targets (B, K, T), as in `Batch`."""
    longest = max(len(ids) for some in captions for ids in some)
    inputs = torch.full((len(captions), width, longest), vocabulary.pad_id)
    targets = inputs.clone()
    for row, some in enumerate(captions):
        for column, ids in enumerate(some):
            targets[row, column, : len(ids)] = torch.tensor(ids)
            inputs[row, column, : len(ids)] = torch.tensor([vocabulary.bos_id, *ids[:-1]])
    return inputs, targets

"""What a search's steps noted, read backwards: a caption from where it ends."""

from collections.abc import Sequence
from functools import cached_property

import torch

from handler.decoders.base import Tensors

End = tuple[int, int]  # a step and one of its candidates


class Note:
    """What one step noted of the images that were not done.

    Args:
        images: their places in the call, B of them.
        tensors: (B, 2K) each candidate's `token`, its `logprob`, and the `origin`, the live hypothesis that it
            lengthens; (B, K) the `chosen` candidates, which are the live hypotheses from then on; (B, K, cells) the
            live hypotheses' `attention`, where it is wanted.
    """

    def __init__(self, images: Sequence[int], tensors: Tensors):
        self.images, self.tensors = images, tensors

    @cached_property
    def rows(self) -> dict[int, int]:
        return {image: row for row, image in enumerate(self.images)}

    @cached_property
    def values(self) -> dict[str, list[list[float]]]:
        return {name: tensor.tolist() for name, tensor in self.tensors.items() if name != "attention"}

    @cached_property
    def attention(self) -> torch.Tensor | None:
        return self.tensors["attention"].cpu() if "attention" in self.tensors else None


class Trail:
    """The notes of all steps so far. So nothing of what a hypothesis has said has to be carried from step to step."""

    def __init__(self):
        self.notes: list[Note] = []

    def __len__(self) -> int:
        return len(self.notes)

    def add(self, images: Sequence[int], tensors: Tensors) -> None:
        """One more step; see `Note`."""
        self.notes.append(Note(images, tensors))

    def live(self, image: int, hypothesis: int) -> End:
        """Where a live hypothesis of an image stands."""
        note = self.notes[-1]
        return len(self) - 1, note.values["chosen"][note.rows[image]][hypothesis]

    def read(self, image: int, end: End) -> tuple[list[int], list[float], list[torch.Tensor]]:
        """An image's tokens up to `end`, their log-probabilities, and where it is noted their attention, (cells,)."""
        step, candidate = end
        tokens, logprobs, looks = [], [], []
        for at in range(step, -1, -1):
            note = self.notes[at]
            row = note.rows[image]
            hypothesis = note.values["origin"][row][candidate]
            tokens.append(note.values["token"][row][candidate])
            logprobs.append(note.values["logprob"][row][candidate])
            if note.attention is not None:
                looks.append(note.attention[row, hypothesis])
            if at:
                before = self.notes[at - 1]
                candidate = before.values["chosen"][before.rows[image]][hypothesis]
        return tokens[::-1], logprobs[::-1], looks[::-1]

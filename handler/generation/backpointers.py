"""What a search's steps noted, read backwards: captions from where they end."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from handler.modeling.decoder import Tensors

End = tuple[int, int]  # a step and one of its candidates
Said = tuple[list[int], list[float], torch.Tensor | None]  # tokens, their log-probabilities, attention (tokens, cells)


class Note:
    """What one step noted of the images that were not done.

    Args:
        rows: (images of the call,), each one's row in the tensors.
        tensors: (B, 2K) each candidate's `token`, its `logprob`, and the `origin`, the live hypothesis that it
            lengthens; (B, K) the `chosen` candidates, which are the live hypotheses from then on; (B, K, cells) the
            live hypotheses' `attention`, where it is wanted.
    """

    def __init__(self, rows: np.ndarray, tensors: Tensors):
        self.rows, self.tensors = rows, tensors

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        return {name: tensor.cpu().numpy() for name, tensor in self.tensors.items() if name != "attention"}

    @cached_property
    def attention(self) -> torch.Tensor | None:
        return self.tensors["attention"].cpu() if "attention" in self.tensors else None


class Trail:
    """The notes of all steps so far. So nothing of what a hypothesis has said has to be carried from step to step."""

    def __init__(self):
        self.notes: list[Note] = []

    def __len__(self) -> int:
        return len(self.notes)

    def add(self, rows: np.ndarray, tensors: Tensors) -> None:
        """One more step; see `Note`."""
        self.notes.append(Note(rows, tensors))

    def live(self, image: int, hypothesis: int) -> End:
        """Where a live hypothesis of an image stands."""
        note = self.notes[-1]
        return len(self) - 1, int(note.values["chosen"][note.rows[image], hypothesis])

    def read(self, images: Sequence[int], ends: Sequence[End]) -> list[Said]:
        """What was said up to each of N ends, all read together, a step at a time.

        Args:
            images: the image of each end, by its place in the call.
            ends: where to begin to read.
        """
        if not ends:
            return []
        image, (last, candidate) = np.array(images), np.array(ends).T
        steps = last.max() + 1
        tokens, logprobs = np.zeros((len(ends), steps), int), np.zeros((len(ends), steps), np.float32)
        looks = self._room_for_attention(len(ends), steps)
        hypothesis = np.zeros(len(ends), int)
        for at in range(steps - 1, -1, -1):
            note, reached = self.notes[at], np.flatnonzero(last >= at)
            row = note.rows[image[reached]]
            # A caption ends with a candidate; before its end it is the one that its live hypothesis was chosen from.
            way = np.where(last[reached] == at, candidate[reached], note.values["chosen"][row, hypothesis[reached]])
            tokens[reached, at] = note.values["token"][row, way]
            logprobs[reached, at] = note.values["logprob"][row, way]
            hypothesis[reached] = note.values["origin"][row, way]
            if looks is not None:
                looks[reached, at] = note.attention[row, hypothesis[reached]]
        return [
            (
                tokens[place, :length].tolist(),
                logprobs[place, :length].tolist(),
                None if looks is None else looks[place, :length],
            )
            for place, length in enumerate(last + 1)
        ]

    def _room_for_attention(self, ends: int, steps: int) -> torch.Tensor | None:
        """(ends, steps, cells), or None where no attention was noted."""
        attention = self.notes[0].attention
        return None if attention is None else torch.zeros(ends, steps, attention.shape[-1])

"""Back-pointers of a beam search, and backtracking from where a hypothesis ends."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from handler.modeling.decoder import TensorDict

BackPointer = tuple[int, int]  # a step, and one of its candidates
TokenSequence = tuple[list[int], list[float], torch.Tensor | None]  # ids, log-probabilities, attention (tokens, cells)


class StepRecord:
    """Record of one decoding step for the groups of beams that were still active.

    Args:
        row_of_group: (groups of the search,), the row of each group in the tensors; -1 if it was finished.
        tensors: `token`, `logprob` and `parent_beam` (G, 2K): each candidate's token id, its log-probability, and the
            beam that it extends. `selected` (G, K): the candidates that become the live beams. Optionally
            `attention` (G, K, cells): the attention of the beams before this step.
    """

    def __init__(self, row_of_group: np.ndarray, tensors: TensorDict) -> None:
        self.row_of_group, self.tensors = row_of_group, tensors

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """The integer and score tensors on the CPU, copied when first read."""
        return {name: tensor.cpu().numpy() for name, tensor in self.tensors.items() if name != "attention"}

    @cached_property
    def attention(self) -> torch.Tensor | None:
        """(G, K, cells) on the CPU, copied when first read; None if it was not recorded."""
        return self.tensors["attention"].cpu() if "attention" in self.tensors else None


class BackPointers:
    """Back-pointers of every decoding step.

    Sequences are reconstructed by backtracking when a hypothesis finishes, so per-beam histories are never copied.
    """

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, row_of_group: np.ndarray, tensors: TensorDict) -> None:
        """Append one step; see `StepRecord`."""
        self.steps.append(StepRecord(row_of_group, tensors))

    def live_pointer(self, group: int, beam: int) -> BackPointer:
        """Return the pointer to the last token of a live beam of a group."""
        record = self.steps[-1]
        return len(self) - 1, int(record.values["selected"][record.row_of_group[group], beam])

    def backtrack(self, groups: Sequence[int], pointers: Sequence[BackPointer]) -> list[TokenSequence]:
        """Return the sequences that end at N pointers, reconstructed together one step at a time.

        Args:
            groups: The group of each pointer, by its index in the search.
            pointers: The last token of each sequence.
        """
        if not pointers:
            return []
        group, (last, final) = np.array(groups), np.array(pointers).T
        num_steps = int(last.max()) + 1
        tokens, logprobs = np.zeros((len(pointers), num_steps), int), np.zeros((len(pointers), num_steps), np.float32)
        attention = self._allocate_attention(len(pointers), num_steps)
        beam = np.zeros(len(pointers), int)
        for step in range(num_steps - 1, -1, -1):
            record, active = self.steps[step], np.flatnonzero(last >= step)
            row = record.row_of_group[group[active]]
            # A sequence ends with the candidate of its pointer; before that it follows the selection of its beam.
            candidate = np.where(last[active] == step, final[active], record.values["selected"][row, beam[active]])
            tokens[active, step] = record.values["token"][row, candidate]
            logprobs[active, step] = record.values["logprob"][row, candidate]
            beam[active] = record.values["parent_beam"][row, candidate]
            if attention is not None and record.attention is not None:
                attention[active, step] = record.attention[row, beam[active]]
        return [
            (
                tokens[i, :length].tolist(),
                logprobs[i, :length].tolist(),
                None if attention is None else attention[i, :length],
            )
            for i, length in enumerate(last + 1)
        ]

    def _allocate_attention(self, sequences: int, steps: int) -> torch.Tensor | None:
        """(sequences, steps, cells), or None if no attention was recorded."""
        attention = self.steps[0].attention
        return None if attention is None else torch.zeros(sequences, steps, attention.shape[-1])

"""Generated captions, and the ranking of those that one image has."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from handler.generation.backpointers import BackPointer

FinishedHypothesis = tuple[float, BackPointer]  # length-penalized score, last token


@dataclass(frozen=True)
class Hypothesis:
    """A generated caption.

    Attributes:
        token_ids: Its tokens, without `<start>` and `<end>`.
        logprobs: Natural log-probability of each token, then that of `<end>`: one more than `token_ids`.
        attention: (tokens, cells), each row sums to 1; None if it was not requested or the decoder has none.
    """

    token_ids: list[int]
    logprobs: list[float]
    attention: torch.Tensor | None = None

    @property
    def score(self) -> float:
        """Mean log-probability of the tokens, `<end>` included."""
        return sum(self.logprobs) / len(self.logprobs)


def rank_across_groups(groups: Sequence[Sequence[FinishedHypothesis]]) -> list[tuple[int, BackPointer]]:
    """Rank the hypotheses of an image: the best of each group by their scores, then the second best of each, etc.

    Args:
        groups: The finished hypotheses of each group of beams, best first.

    Returns:
        Index of the group and last token of each hypothesis, best first.
    """
    ranked = [
        (rank, -score, index, pointer)
        for index, hypotheses in enumerate(groups)
        for rank, (score, pointer) in enumerate(hypotheses)
    ]
    return [(index, pointer) for _, _, index, pointer in sorted(ranked)]


def duplicates_last(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Move hypotheses with the tokens of an earlier one to the end; the order is kept otherwise."""
    seen: set[tuple[int, ...]] = set()
    distinct: list[Hypothesis] = []
    duplicates: list[Hypothesis] = []
    for hypothesis in hypotheses:
        tokens = tuple(hypothesis.token_ids)
        (duplicates if tokens in seen else distinct).append(hypothesis)
        seen.add(tokens)
    return distinct + duplicates

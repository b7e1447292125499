"""A decoder without weights: its logits are read from a table, so that expected captions can be worked out by hand."""

import math

import torch

from handler.modeling import Decoder, StepFeatures
from handler.modeling.vocabulary import SPECIAL, Vocabulary

A, B, C = 4, 5, 6
END = 2


class TableDecoder(Decoder):
    """A decoder that reads its logits from a table: for each image, step and last token.

    Its grid (B, steps, V * V) is the table itself, so that each image has a model of its own.
    """

    def init_state(self, grid):
        size = self.vocabulary_size
        state = {"step": torch.zeros(len(grid), 1, dtype=torch.long)}
        return {"table": grid.unflatten(2, (size, size))}, state

    def step_features(self, tokens, state, memory):
        images = torch.arange(len(tokens)).unsqueeze(1)
        logits = memory["table"][images, state["step"], tokens]
        return StepFeatures(logits, {"step": state["step"] + 1}, memory)

    def lm_head(self, features):
        return features


def vocabulary_of(words: int) -> Vocabulary:
    return Vocabulary((*SPECIAL, *(chr(ord("a") + i) for i in range(words))))


def random_tables(images: int, steps: int, vocabulary: Vocabulary, seed: int) -> torch.Tensor:
    size = len(vocabulary)
    return 2 * torch.randn(images, steps, size * size, generator=torch.Generator().manual_seed(seed))


def probability_table(rows: dict[int, dict[int, float]], steps: int) -> torch.Tensor:
    """A table from probabilities of the next token by the last one, the same at each step."""
    table = torch.full((7, 7), -1e4)
    for last, nexts in rows.items():
        for token, probability in nexts.items():
            table[last, token] = math.log(probability)
    return table.flatten().expand(1, steps, -1)

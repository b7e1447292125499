"""Backtracking, on hand-worked steps."""

import numpy as np
import pytest
import torch

from handler.generation.backpointers import BackPointers


@pytest.fixture
def history():
    """Two steps of two images with two beams, the second step of image 1 only.

    Image 1: candidates of step 0 are tokens 10, 11, 12, 13, of which 11 and 10 become the beams. At step 1 token 20
    extends beam 1 (10), and tokens 21, 22, 23 extend beam 0 (11).
    """
    history = BackPointers()
    history.add(
        np.array([0, 1]),
        {
            "token": torch.tensor([[1, 2, 3, 4], [10, 11, 12, 13]]),
            "logprob": torch.tensor([[-1.0, -2, -3, -4], [-0.1, -0.2, -0.3, -0.4]]),
            "parent_beam": torch.zeros(2, 4, dtype=torch.long),
            "selected": torch.tensor([[0, 1], [1, 0]]),
            "attention": torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]]),
        },
    )
    history.add(
        np.array([-1, 0]),  # image 0 is finished
        {
            "token": torch.tensor([[20, 21, 22, 23]]),
            "logprob": torch.tensor([[-1.5, -2.5, -3.5, -4.5]]),
            "parent_beam": torch.tensor([[1, 0, 0, 0]]),
            "selected": torch.tensor([[2, 0]]),
            "attention": torch.tensor([[[0.2, 0.8], [0.9, 0.1]]]),
        },
    )
    return history


def test_backtrack_follows_the_parents_of_each_image(history):
    images, pointers = [1, 0, 1], [(1, 0), (0, 3), (1, 3)]
    (first, first_logprobs, first_attention), (second, _, _), (third, third_logprobs, third_attention) = (
        history.backtrack(images, pointers)
    )
    assert (first, second, third) == ([10, 20], [4], [11, 23])
    assert first_logprobs == pytest.approx([-0.1, -1.5])
    assert third_logprobs == pytest.approx([-0.2, -4.5])
    torch.testing.assert_close(first_attention, torch.tensor([[0.5, 0.5], [0.9, 0.1]]))  # of beam 1
    torch.testing.assert_close(third_attention, torch.tensor([[0.5, 0.5], [0.2, 0.8]]))  # of beam 0


def test_live_pointer_names_the_candidate_that_a_beam_was_selected_from(history):
    assert len(history) == 2
    assert [history.live_pointer(1, beam) for beam in (0, 1)] == [(1, 2), (1, 0)]
    [(tokens, _, _)] = history.backtrack([1], [history.live_pointer(1, 0)])
    assert tokens == [11, 22]


def test_backtrack_of_nothing_is_empty(history):
    assert history.backtrack([], []) == []


def test_backtrack_without_recorded_attention_returns_none():
    history = BackPointers()
    step = {"token": torch.tensor([[7, 8]]), "logprob": torch.zeros(1, 2), "parent_beam": torch.zeros(1, 2).long()}
    history.add(np.array([0]), step | {"selected": torch.tensor([[0]])})
    assert history.backtrack([0], [(0, 1)]) == [([8], [0.0], None)]

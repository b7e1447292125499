"""Faithfulness of explanations: hidden cells and arguments."""

import pytest
import torch

from eval.faithfulness import hide_cells


def test_hide_cells_fills_with_the_mean_color():
    pixels = torch.arange(3 * 4 * 4, dtype=torch.uint8).view(3, 4, 4)
    [hidden] = hide_cells(pixels, torch.tensor([[1]]), (2, 2))  # the upper right cell of the grid
    assert hidden[0].tolist() == [[0, 1, 8, 8], [4, 5, 8, 8], [8, 9, 10, 11], [12, 13, 14, 15]]  # 7.5 rounds to even
    assert (hidden[:, 2:] == pixels[:, 2:]).all()


@pytest.mark.parametrize("option", ["--share=1", "--share=0", "--images=0"])
def test_faithfulness_invalid_argument_is_refused(run_main, option):
    done = run_main("eval.faithfulness", "pretrained", "samples", "photos", option)
    assert (done.returncode, done.stderr) == (1, "--share must be above 0 and below 1, --images at least 1.\n")

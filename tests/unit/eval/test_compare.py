"""Comparison of two runs."""

import numpy as np
import pytest

from eval.compare import (
    Comparison,
    ScoredRun,
    format_differences,
    most_changed,
    read_captions,
    regressions,
)
from eval.data import CaptionedImage
from eval.measures import Measures
from eval.metrics import CaptionScores
from eval.results import write_results
from eval.significance import Difference


@pytest.mark.parametrize(
    ("changes", "worse"),
    [
        ({"CIDEr": (-1.0, 0.001), "METEOR": (-1.0, 0.04)}, ["CIDEr", "METEOR"]),  # below 0.025, then below 0.05
        ({"CIDEr": (-1.0, 0.03), "METEOR": (-1.0, 0.04)}, []),
        ({"CIDEr": (1.0, 0.001), "METEOR": (-1.0, 0.04)}, ["METEOR"]),  # better is not a regression
        ({"CIDEr": (-1.0, 0.001), "METEOR": (-1.0, 0.06)}, ["CIDEr"]),
    ],
)
def test_regressions_are_corrected_for_the_number_of_metrics(changes, worse):
    differences = {name: Difference(1.0, 1.0 + change, (0.0, 0.0), p) for name, (change, p) in changes.items()}
    assert regressions(Comparison(None, None, differences)) == worse


def test_most_changed_orders_from_gain_to_loss():
    def scores(*cider):
        measured = CaptionScores([1, 2, 3, 4], {}, {}, {}, np.zeros((4, 10)), None, {"CIDEr": np.array(cider)})
        return ScoredRun({}, measured, Measures({}, []))

    comparison = Comparison(scores(0.0, 0, 0, 0), scores(-3.0, 1, 0, 2), {})
    assert most_changed(comparison) == [4, 2, 1]
    assert most_changed(comparison, 2) == [4, 1]


def test_format_differences_marks_significant_ones():
    table = format_differences({"CIDEr": Difference(0.5, 0.4, (-0.2, -0.05), 0.01)}, "old", "new")
    assert "| CIDEr | 50.0 | 40.0 | -10.0 * | -20.0 … -5.0 | 0.010 |" in table


def test_read_captions_of_another_split_is_refused(tmp_path):
    write_results(tmp_path / "captions.json", {1: "a dog"})
    assert read_captions(tmp_path, [CaptionedImage(1, tmp_path, ("a",))]) == {1: "a dog"}
    with pytest.raises(ValueError, match="exactly the 1 images of this split"):
        read_captions(tmp_path, [CaptionedImage(2, tmp_path, ("a",))])

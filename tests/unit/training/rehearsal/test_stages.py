"""Stages of the rehearsal on a tiny set, and their table."""

import pytest

from tests.helpers.paths import ROOT
from training.rehearsal.__main__ import format_rows
from training.rehearsal.generator import generate
from training.rehearsal.stages import STAGES

PHOTOS = sorted((ROOT / "samples" / "photos").glob("*.jpg"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rehearsal")
    generate(directory, PHOTOS, scale=0.01)
    return directory


@pytest.mark.parametrize("stage", ["read", "vocabulary", "tokens", "idf"])
def test_stage_measures_all_images(data, stage):
    assert STAGES[stage](data, "train2017")["items"] == 1183  # a hundredth of 118,287


def test_order_is_the_same_with_any_number_of_processes(data):
    """1,183 images are four steps of 256."""
    assert STAGES["order"](data, "train2017")["note"].startswith("4 steps, the same with (1, 2, 8) processes")


def test_format_rows_compares_with_linear_growth():
    """Ten times the images: 12 s are 1.2 times 10 × 1 s, 2 GB are 0.2 times 10 × 1 GB."""
    small = {"items": 10, "seconds": 1.0, "memory": 1e9, "java_memory": 0}
    full = {"items": 100, "seconds": 12.0, "memory": 2e9, "java_memory": 3e8, "bytes": 5e6}
    assert format_rows("score", "val2014", small, full) == [
        ["score val2014", "10", "1.0", "", "1.00", "", "", "", ""],
        ["score val2014", "100", "12.0", "1.20", "2.00", "0.20", "0.30", "5.0", ""],
    ]

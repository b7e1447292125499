"""Selection of the best epoch."""

import pytest

from training.selection import selection_score


def content(cider: float, model: float = 0.0, people: float | None = None) -> dict:
    measures = {} if people is None else {"likeness": {"model": model, "people": people}}
    return {"scores": {"CIDEr": cider}, "measures": measures}


def test_selection_score_adds_likeness_relative_to_people():
    assert selection_score(content(0.66, 0.72, 0.9), 0.5) == pytest.approx(0.66 + 0.5 * 0.8)
    assert selection_score(content(0.66, 0.72, 0.9), 0.0) == 0.66


def test_selection_score_is_not_better_for_more_likeness_than_people_have():
    assert selection_score(content(0.66, 0.95, 0.9), 0.5) == selection_score(content(0.66, 0.9, 0.9), 0.5)


@pytest.mark.parametrize("unknown", [content(0.66), content(0.66, 0.5, 0.0)])
def test_selection_score_without_likeness_of_people_is_cider(unknown):
    assert selection_score(unknown, 0.5) == 0.66

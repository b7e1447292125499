"""Overuse of trigrams, compared with values computed by hand; the counts survive a checkpoint."""

import math

import pytest

from training.checkpoint import load_checkpoint, save_checkpoint
from training.rewards import NgramOveruse

# Group 0: two images, four trigrams: 123 three times, 234 once. Group 1: 567 is the only trigram.
REFERENCES = [[[1, 2, 3], [1, 2, 3, 4]], [[1, 2, 3], [8, 9]], [[5, 6, 7]]]
GROUPS = [0, 0, 1]


@pytest.fixture
def overuse(monkeypatch):
    monkeypatch.setattr("training.rewards.ngram_overuse.WINDOW", 4)
    monkeypatch.setattr("training.rewards.ngram_overuse.SMOOTHING", 0.05)
    return NgramOveruse(REFERENCES, GROUPS)


def test_score_before_the_first_update_is_zero(overuse):
    assert overuse.score([0, 1, 2], [[1, 2, 3, 4], [7, 7, 7, 7], [5, 6, 7]]).tolist() == [0, 0, 0]


def test_score_of_a_partly_filled_window_mixes_in_frequencies_of_people(overuse):
    overuse.update([0], [[1, 2, 3, 4]])  # half of the window: 123 and 234
    # p_model(234) = 1/2 · 1/2 + 1/2 · 1/4 = 0.375, p_people = 0.25: log(0.425 / 0.3).
    # p_model(123) = 1/2 · 1/2 + 1/2 · 3/4 = 0.625, p_people = 0.75: below 1, so 0.
    # p_model(999) = p_people = 0.
    scores = overuse.score([1, 1, 1], [[2, 3, 4], [1, 2, 3, 4], [9, 9, 9]])
    assert scores.tolist() == pytest.approx([math.log(0.425 / 0.3), math.log(0.425 / 0.3) / 2, 0])


def test_score_counts_the_latest_trigrams_only(overuse):
    overuse.update([0, 1, 1], [[1, 2, 3], [2, 3, 4, 2], [2, 3, 4]])  # 123, 234, 342, 234
    # p_model(234) = 1/2: log(0.55 / 0.3). p_model(342) = 1/4, p_people = 0: log(0.3 / 0.05).
    expected = [math.log(0.55 / 0.3), math.log(0.3 / 0.05)]
    assert overuse.score([0, 0], [[2, 3, 4], [3, 4, 2]]).tolist() == pytest.approx(expected)
    overuse.update(
        [0], [[1, 2, 3, 4, 2]]
    )  # 342, and 234 of before, are the oldest but one that stay: 234, 123, 234, 342
    assert overuse.score([0, 0], [[2, 3, 4], [3, 4, 2]]).tolist() == pytest.approx(expected)
    overuse.update([0], [[1, 2, 3, 1, 2, 3]])  # 123, 231, 312, 123
    # p_model(123) = 1/2 is below p_people.
    assert overuse.score([0, 0, 0], [[2, 3, 4], [1, 2, 3], [2, 3, 1]]).tolist() == pytest.approx(
        [0, 0, math.log(0.3 / 0.05)]
    )


def test_score_groups_have_separate_counts(overuse):
    overuse.update([2, 2], [[1, 2, 3, 1], [1, 2, 3, 1]])
    # Group 1: p_model(123) = 1/2, p_people = 0: log(0.55 / 0.05). Group 0 has sampled nothing.
    assert overuse.score([2, 0], [[1, 2, 3], [1, 2, 3]]).tolist() == pytest.approx([math.log(11), 0])


def test_score_of_a_short_caption_is_zero(overuse):
    overuse.update([0, 0, 0], [[], [9], [9, 9]])
    assert overuse.score([0, 0, 0], [[], [9], [9, 9]]).tolist() == [0, 0, 0]
    assert overuse.score([], []).tolist() == []


def test_score_trigrams_do_not_cross_captions(overuse):
    overuse.update([0, 0], [[2, 3], [4, 4]])
    assert overuse.score([0, 0], [[2, 3, 4], [3, 4, 4]]).tolist() == [0, 0]


def test_score_large_token_ids_are_distinct(overuse):
    overuse.update([0], [[2**21 - 1, 0, 1]])
    assert overuse.score([0, 0], [[2**21 - 1, 0, 1], [2**21 - 2, 2**21 - 1, 1]])[1] == 0


def test_state_dict_in_a_checkpoint_restores_the_counts(overuse, tmp_path):
    overuse.update([0, 2], [[1, 2, 3, 4, 2], [1, 2, 3]])
    save_checkpoint(tmp_path / "checkpoint", {"overuse": overuse.state_dict()}, {"step": 1})
    restored = NgramOveruse(REFERENCES, GROUPS)
    restored.load_state_dict(load_checkpoint(tmp_path / "checkpoint")[0]["overuse"])
    for reward in (overuse, restored):
        reward.update([1], [[2, 3, 4, 4]])
    images, captions = [0, 0, 0, 2], [[2, 3, 4], [3, 4, 2], [3, 4, 4], [1, 2, 3]]
    assert restored.score(images, captions).tolist() == overuse.score(images, captions).tolist()
    assert min(overuse.score(images, captions)) > 0


def test_state_dict_of_a_group_without_samples_can_be_saved(overuse, tmp_path):
    save_checkpoint(tmp_path / "checkpoint", {"overuse": overuse.state_dict()}, {"step": 0})
    parts, _ = load_checkpoint(tmp_path / "checkpoint")
    overuse.load_state_dict(parts["overuse"])
    assert overuse.score([2], [[1, 2, 3]]).tolist() == [0]

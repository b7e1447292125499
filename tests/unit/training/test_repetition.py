"""Repeated words, counted by hand."""

import pytest

from handler.modeling.vocabulary import build_vocabulary
from training.rewards import Repetition

CAPTION = "a man and a woman in front of the old man's t-shirt 2 on"
VOCABULARY = build_vocabulary([CAPTION], 1)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a man and a woman in front of the old woman", 1),  # woman
        ("a man in front of the man in front of the man", 3),  # man, front, man; function words may
        ("the man 's t-shirt and the woman 's t-shirt", 1),  # t-shirt
        ("2 and 2 and a man", 1),  # a number has no letter; the second "and" ends "2 and 2 and"
        ("a a man on on on", 3),  # a, on, on
        ("in the in the old in the", 1),  # "in the in the"; the third one is not next to them
        ("in front of in front of", 2),  # front; "of" ends the repeated trigram
        ("man", 0),
        ("", 0),
    ],
)
def test_repetition_counts_repeating_tokens(caption, expected):
    assert Repetition(VOCABULARY).score([7], [VOCABULARY.encode(caption.split())]).tolist() == [expected]


def test_repetition_end_is_no_word():
    scores = Repetition(VOCABULARY).score([0, 0], [[VOCABULARY.eos_id], [*VOCABULARY.encode(["man"]), 2]])
    assert scores.tolist() == [0, 0]

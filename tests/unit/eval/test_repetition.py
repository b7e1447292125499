"""Captions that say a content word twice."""

import pytest

from eval.repetition import repeat_share, repeats_content_word


@pytest.mark.parametrize(
    ("caption", "repeats"),
    [
        ("a man on a camera in front of a camera", True),
        ("a man in a red shirt and a man in a blue shirt", True),
        ("a man and a woman in the grass", False),  # only "a" occurs twice
        ("a dog and two dogs", False),  # other forms are other words
        ("2 2", False),  # not alphabetic
        ("", False),
    ],
)
def test_repeats_content_word_counts_content_words_alone(caption, repeats):
    assert repeats_content_word(caption.split()) is repeats


def test_repeat_share_is_over_all_captions():
    assert repeat_share([["dog", "dog"], ["a", "dog"], [], ["cat", "a", "cat"]]) == 2 / 4

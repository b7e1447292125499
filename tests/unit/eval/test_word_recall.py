"""Recall of the words that two references share."""

import pytest

from eval.parts_of_speech import TaggedWord
from eval.word_recall import shared_words, word_recall

DOG, CAT, GRASS = (TaggedWord("objects", word) for word in ("dog", "cat", "grass"))
RUN, RED = TaggedWord("verbs", "run"), TaggedWord("colors", "red")


def test_shared_words_are_in_two_references():
    assert shared_words([[DOG, RUN], [DOG, GRASS], [RUN, CAT, RED]]) == {DOG, RUN}
    assert shared_words([[DOG, DOG], [CAT]]) == set()


def test_word_recall_sums_over_images_by_part():
    shared = [{DOG, GRASS, RUN}, {CAT}]
    # Objects: dog of dog, grass and cat. Verbs: run. No color is shared, so there is no recall of colors.
    assert word_recall([{DOG, RUN, RED}, {DOG}], shared) == pytest.approx({"objects": 1 / 3, "verbs": 1.0})

"""Recall of the words that two references share."""

import pytest

from eval.parts_of_speech import TaggedWord
from eval.word_recall import word_recall

DOG, CAT, GRASS = (TaggedWord("objects", word) for word in ("dog", "cat", "grass"))
RUN, RED = TaggedWord("verbs", "run"), TaggedWord("colors", "red")


def part(word):
    return word.part


def test_word_recall_divides_words_in_several_ways():
    references = [[set(), {DOG, RUN}, {DOG, RUN}]]
    captions, _ = word_recall([{DOG}], references, 1, [part, lambda word: "short" if len(word.lemma) == 3 else "long"])
    assert captions == [{"objects": 1.0, "verbs": 0.0, "short": 0.5}]


def test_word_recall_sums_over_images_by_part():
    references = [[{CAT}, {DOG, GRASS, RUN}, {DOG, GRASS, RUN, RED}], [{CAT, DOG}, {CAT}, {CAT}]]
    captions, people = word_recall([{DOG, RUN, RED}, {DOG}], references, 1, [part])
    # The first references are held out. The others share dog, grass and run, and cat in the second image. No two share
    # red, so there is no recall of colors. The captions have dog and run, the held-out references have cat alone.
    assert captions == [pytest.approx({"objects": 1 / 3, "verbs": 1})]
    assert people == [pytest.approx({"objects": 1 / 3, "verbs": 0})]


def test_word_recall_holds_each_reference_out():
    captions, people = word_recall([{DOG}], [[{DOG}, {DOG, CAT}, {DOG, CAT}]], 3, [part])
    # Held out first: dog and cat are shared. Held out second or third: dog.
    assert captions == [{"objects": 1 / 2}, {"objects": 1}, {"objects": 1}]
    assert people == [{"objects": 1 / 2}, {"objects": 1}, {"objects": 1}]

"""Measures of captions beside those of people, on two images worked out by hand."""

import pytest

from eval import measures
from eval.copies import normalize_all
from eval.measures import measure_captions

REFERENCES = {
    1: ["a dog runs", "a dog jumps", "the dog runs"],
    2: ["a cat sits", "the cat sits", "a cat is a cat"],
    3: ["only one"],  # left out
}
CAPTIONS = {1: "a dog and a dog", 2: "a dog runs", 3: "x"}


@pytest.fixture(autouse=True)
def lexicon(monkeypatch):
    """A lexicon of nouns and verbs, in place of lemminflect."""
    nouns, verbs = {"dog": "dog", "cat": "cat"}, {"runs": "run", "jumps": "jump", "sits": "sit"}
    entries = {word: {"objects": lemma} for word, lemma in nouns.items()}
    entries |= {word: {"verbs": lemma} for word, lemma in verbs.items()}
    monkeypatch.setattr("eval.parts_of_speech.possible_parts", lambda word: entries.get(word, {}))
    monkeypatch.setattr(measures, "is_installed", lambda: True)


def pairs(captions=CAPTIONS, references=REFERENCES, known=()):
    found = measure_captions(references, captions, known).pairs
    return {name: (pair["model"], pair["people"]) for name, pair in found.items()}


def test_measure_captions_holds_each_reference_out_in_turn():
    found = pairs()
    # People: the captions (a dog runs, a cat sits), (a dog jumps, the cat sits), (the dog runs, a cat is a cat).
    assert found["repeats"] == pytest.approx((1 / 2, (0 + 0 + 1 / 2) / 3))
    assert found["words_used"] == pytest.approx((4, (5 + 6 + 6) / 3))
    assert found["distinct"] == (1, 1)
    assert found["words_per_caption"] == pytest.approx(((5 + 3) / 2, (3 + 3 + 4) / 3))
    assert found["commonest_run"] == pytest.approx((1 / 2, 1 / 2))
    assert found["bad_endings"] == (0, 0)


def test_measure_captions_recalls_what_the_remaining_references_share():
    # The two references that remain always share dog or cat. The person always says it, the model says dog.
    # They share runs if the second is held out, sits if the third is, and no verb if the first is.
    found = pairs()
    assert found["recall_objects"] == pytest.approx((1 / 2, 1))
    assert "recall_verbs" not in found


def test_measure_captions_likeness_is_to_the_remaining_references():
    # The person who is held out says "a" and the other "b", or the other way round. The model says "a" both times.
    assert pairs({1: "a"}, {1: ["a", "b"]})["likeness"] == pytest.approx((1 / 2, 0))
    assert pairs({1: "a"}, {1: ["a", "a"]})["likeness"] == pytest.approx((1, 1))


def test_measure_captions_counts_copies_of_both():
    found = pairs(known=normalize_all(["A dog runs."]))
    assert found["copied"] == pytest.approx((1 / 2, 1 / 6))  # one of the six references of the two images


def test_measure_captions_with_one_reference_has_no_people():
    found = pairs({1: "a dog", 2: ""}, {1: ["a dog"], 2: ["a cat"]})
    assert found["words_used"] == (2, None)
    assert found["commonest_run"] == (0, None)
    assert not {"likeness", "recall_objects"} & found.keys()


def test_measure_captions_folds_are_at_most_five():
    references = {1: [f"word{number}" for number in range(50)], 2: [f"other{number}" for number in range(6)]}
    found = pairs({1: "word0", 2: "other0"}, references)
    assert found["words_used"] == (2, 2)  # two words in each fold


def test_measure_captions_of_empty_captions_are_zero():
    found = pairs({1: "", 2: "", 3: ""})
    assert found["likeness"][0] == found["repeats"][0] == found["words_used"][0] == found["commonest_run"][0] == 0

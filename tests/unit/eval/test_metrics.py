"""Scores against values computed by hand."""

import math

import pytest

from eval.java import JavaError
from eval.meteor import Meteor, MeteorError
from eval.metrics import compute_all_metrics, compute_metrics, score_captions, signature
from eval.preflight import check_metrics

REFERENCES = {
    1: ["A dog runs through the grass .", "the brown dog is running"],
    2: ["two men play football", "men with a ball ."],
    3: ["a red car", "the car is red"],
}


def test_score_captions_equal_to_references_has_full_bleu_and_rouge():
    scores = score_captions(
        REFERENCES, {1: "a dog runs through the grass", 2: "two men play football", 3: "the car is red"}, meteor=False
    )
    assert scores["Bleu_4"] == pytest.approx(1, abs=1e-6)
    assert scores["ROUGE_L"] == pytest.approx(1)


def test_bleu_matches_hand_computed_precisions():
    # 13 words. Found in the references: a dog runs through, 4 of 4; two men of "two men eat", 2 of 3;
    # the, red once, car and is of "the red red car is big", 4 of 6.
    captions = {1: "a dog runs through", 2: "two men eat", 3: "the red red car is big"}
    scores = score_captions(REFERENCES, captions, meteor=False)
    # The closest reference lengths are 5, 4 and 4: 13 words, so there is no brevity penalty.
    assert scores["Bleu_1"] == pytest.approx(10 / 13, abs=1e-6)
    # Pairs: 3 of 3, 1 of 2, and of (the red, red red, red car, car is, is big) red car and car is.
    assert scores["Bleu_2"] == pytest.approx(math.sqrt(10 / 13 * 6 / 10), abs=1e-6)


def test_cider_matches_hand_computed_similarity():
    """One word a caption: then only the unigram vectors are not empty, and equal lengths count in full.

    Each word is in 1 of 2 images, so the vectors are parallel where the words are equal: similarity 1, for one of four
    n-gram sizes, times ten: 2.5 for the image that matches, 0 for the other.
    """
    scores = score_captions({1: ["dog"], 2: ["cat"]}, {1: "dog", 2: "house"}, meteor=False)
    assert scores["CIDEr"] == pytest.approx((2.5 + 0) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("references", "is_defined"),
    [
        ({1: ["a dog"]}, False),
        ({1: ["a dog"], 2: ["a dog"]}, False),
        ({1: ["a dog", "the dog"], 2: ["the dog", "a dog"]}, False),  # the same n-grams
        ({1: ["a dog"], 2: ["a cat"]}, True),
        ({1: ["a dog"], 2: ["dog a"]}, True),  # the pairs differ
    ],
)
def test_cider_of_references_that_are_all_equal_is_undefined(references, is_defined):
    """An n-gram in the references of all N images has the IDF log(N / N) = 0."""
    measured = compute_metrics(references, dict.fromkeys(references, "a dog"), meteor=False)
    assert ("CIDEr" in measured.scores) == is_defined
    reasons = {} if is_defined else {"CIDEr": "it is undefined below two images with different references"}
    assert measured.not_measured == reasons


class EndedMeteor(Meteor):
    """A METEOR whose process has ended."""

    def __init__(self):
        pass

    def statistics(self, references, captions):
        raise MeteorError("The METEOR process ended with status 1.")


def test_compute_all_metrics_failed_processes_are_named_and_take_no_other_metric_down(monkeypatch, capsys):
    def fail(references, captions):
        raise JavaError("The SPICE process failed.")

    monkeypatch.setattr("eval.metrics.Meteor", Meteor)  # other tests share one process in its place
    monkeypatch.setattr("eval.spice.is_installed", lambda: True)
    monkeypatch.setattr("eval.spice.spice_scores", fail)
    captions = {1: "a dog", 2: "two men", 3: "a car"}
    measured = compute_all_metrics(REFERENCES, captions, EndedMeteor())
    assert measured.scores == score_captions(REFERENCES, captions, meteor=False)
    reasons = {"METEOR": "The METEOR process ended with status 1", "SPICE": "The SPICE process failed"}
    assert measured.not_measured == reasons
    assert check_metrics(EndedMeteor()) == reasons
    assert capsys.readouterr().err.splitlines()[0] == (
        "METEOR cannot be measured, the other metrics can: The METEOR process ended with status 1."
    )
    with pytest.raises(RuntimeError, match="METEOR process ended"):
        score_captions(REFERENCES, captions, meteor=EndedMeteor())


def test_check_metrics_metrics_that_are_not_requested_do_not_fail(capsys):
    assert check_metrics(None) == {}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["a café", "a cafe\u0301", "A CAFE\u0301", "a\u00a0café"])
def test_score_captions_composed_and_decomposed_letters_are_equal(text):
    references = {1: ["a café"], 2: ["a dog"]}
    assert score_captions(references, {1: text, 2: "a dog"}, meteor=False)["Bleu_2"] == pytest.approx(1, abs=1e-6)


def test_score_captions_ignores_case_and_punctuation_and_counts_empty_captions():
    one = score_captions(REFERENCES, {1: "A DOG, runs!", 2: "two men", 3: "a car"}, meteor=False)
    assert one == score_captions(REFERENCES, {1: "a dog runs", 2: "two men", 3: "a car"}, meteor=False)
    assert score_captions(REFERENCES, {1: "", 2: "two men", 3: "a car"}, meteor=False)["CIDEr"] < one["CIDEr"]


@pytest.mark.parametrize("character", ["\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"])
def test_score_captions_line_separators_do_not_shift_texts(character):
    """The tokenizer reads one text a line, and each of these characters ends a line for it."""
    captions = {1: "a dog runs", 2: "two men play", 3: "the car is red"}
    plain = score_captions(REFERENCES, captions, meteor=False)
    odd = REFERENCES | {1: [f"A dog{character}runs through the grass .", "the brown dog is running"]}
    assert score_captions(odd, captions, meteor=False) == plain
    assert score_captions(REFERENCES, captions | {1: f"a dog{character}runs"}, meteor=False) == plain


def test_score_captions_has_meteor_of_tokenized_texts_unless_disabled(fake_meteor):
    captions = {3: "The car is RED.", 1: "a dog runs through the grass", 2: "two men play football"}
    scores = score_captions(REFERENCES, captions)
    assert list(scores) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr"]
    assert scores["METEOR"] == pytest.approx(1)
    [(references, tokens)] = fake_meteor.requests
    assert references[1] == ["a dog runs through the grass", "the brown dog is running"]
    assert tokens == captions | {3: "the car is red"}
    without = score_captions(REFERENCES, captions, meteor=False)
    assert without == {name: score for name, score in scores.items() if name != "METEOR"}


@pytest.mark.parametrize("captions", [{1: "a", 2: "b"}, {1: "a", 2: "b", 3: "c", 4: "d"}])
def test_score_captions_other_images_than_references_is_refused(captions):
    with pytest.raises(ValueError, match="captions have no image"):
        score_captions(REFERENCES, captions)


def test_signature_names_split_references_and_scorers():
    references = {1: ["a", "b"], 2: ["a"]}
    assert signature("set/val", references, "beam:3") == (
        "set/val|n:2|refs:1-2|tok:ptb3.4.1|cider-d:idf=refs|meteor:1.5|beam:3"
    )
    assert signature("set/val", references, "beam:3", meteor=False) == (
        "set/val|n:2|refs:1-2|tok:ptb3.4.1|cider-d:idf=refs|beam:3"
    )


@pytest.mark.parametrize(("num_captioned", "n"), [(None, "n:2|refs"), (2, "n:2|refs"), (1, "n:2|captioned:1|refs")])
def test_signature_names_partial_coverage(num_captioned, n):
    references = {1: ["a", "b"], 2: ["a"]}
    assert signature("set/val", references, "beam:3", num_captioned=num_captioned).startswith(f"set/val|{n}:1-2|")

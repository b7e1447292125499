"""Truncated captions, and complete captions that end in similar words."""

import pytest

from eval.data import read_split
from eval.endings import FUNCTION_WORDS, bad_endings


@pytest.mark.parametrize(
    "caption",
    [
        "a man riding a wave on a",
        "a man is standing on the",
        "a dog with a",
        "a dog running with",
        "two dogs play in",
        "A woman in a field of .",  # tokenized, with its full stop
        "A woman in a field of.",
        "A GROUP OF",
        "a man and",
        "a man holding his",
        "a man who is",
        "a boy is sitting next to",
        "a crowd looks at a man on",
        "a dog on",
        "on",
        "a man in a man's",
        "a man in a man 's",
        "a man in a man’s",
        "",
        " . ",
    ],
)
def test_bad_endings_truncated_caption_counts(caption):
    assert bad_endings([caption]) == 1


@pytest.mark.parametrize(
    "caption",
    [
        "a man riding a wave",
        "a dog runs through the grass .",
        "a dog with its tongue out",
        "a man is lying down",
        "a boy jumps up",
        "a dog jumps over",
        "a man stands by",
        "people are watching from behind",
        "a boy jumps off",
        "a man rides as a crowd looks on .",
        "two men wrestle while others look on",
        "a dog with a man beside her",
        "one dog chases another",
        "a dog holding it",
        "a girl pours water from a watering can",
        "a man wearing a hoodie",
        "a man in a t-shirt",
    ],
)
def test_bad_endings_complete_caption_does_not_count(caption):
    assert bad_endings([caption]) == 0


def test_bad_endings_returns_share():
    assert bad_endings(caption for caption in ("a dog", "a dog on a", "", "a cat")) == 0.5


def test_bad_endings_without_captions_raises():
    with pytest.raises(ValueError, match="There are no captions"):
        bad_endings([])


def test_function_words_are_lower_case_letters():
    assert all(word == word.lower() and word.isalpha() for word in FUNCTION_WORDS)


def test_bad_endings_of_flickr8k_are_rare(flickr8k):
    captions = [text for image in read_split(flickr8k, "val") for text in image.captions]
    assert 0 < bad_endings(captions) < 0.005  # 16 of 5,000, such as "with his hat on"

"""Words and ids: tokenizing, the vocabulary's making, and the way back to a sentence."""

import pytest

from handler.modeling.vocabulary import SPECIAL, Vocabulary, build_vocabulary, detokenize, tokenize


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog runs .", ["a", "dog", "runs"]),
        ("A man's T-shirt, torn!", ["a", "man", "'s", "t-shirt", "torn"]),
        ("two dogs ' toys", ["two", "dogs", "toys"]),
        ("a dog 's ball", ["a", "dog", "'s", "ball"]),
        ("they don't look", ["they", "don't", "look"]),
        ("The woman’s 2 cats", ["the", "woman", "'s", "2", "cats"]),
        ("black - and - white", ["black", "and", "white"]),
        ("snow_covered hill\n", ["snow", "covered", "hill"]),
        ("a café", ["a", "café"]),
        ("...", []),
    ],
)
def test_tokenize(caption, words):
    assert tokenize(caption) == words


def test_vocabulary_by_count_then_alphabet():
    vocabulary = build_vocabulary(["a dog a cat", "a dog", "the cat", "one bird"], min_count=2)
    assert vocabulary.tokens == (*SPECIAL, "a", "cat", "dog")
    assert vocabulary.encode(["a", "dog", "bird"]) == [4, 6, vocabulary.unk_id]
    assert vocabulary.decode([4, 5, vocabulary.eos_id]) == ["a", "cat", "<end>"]


def test_file_line_number_is_id(tmp_path):
    vocabulary = build_vocabulary(["a dog"], min_count=1)
    vocabulary.save(tmp_path / "vocabulary.txt")
    assert (tmp_path / "vocabulary.txt").read_text().split("\n") == [*SPECIAL, "a", "dog", ""]
    assert Vocabulary.load(tmp_path / "vocabulary.txt").tokens == vocabulary.tokens


@pytest.mark.parametrize(
    ("tokens", "message"),
    [(("a", "b", "c", "d"), "starts with <pad>"), ((*SPECIAL, "a", "a"), "stands twice"), ((), "starts with")],
)
def test_what_is_no_vocabulary(tokens, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(tokens)


def test_no_word_often_enough():
    with pytest.raises(ValueError, match="occurs 9 times: lower min_count"):
        build_vocabulary(["a dog a cat"], min_count=9)


def test_join_is_the_way_back():
    assert detokenize(tokenize("A man's dog and a t-shirt .")) == "a man's dog and a t-shirt"

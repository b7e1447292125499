"""Function words against content words."""

import pytest

from handler.function_words import FUNCTION_WORDS, is_content_word


def test_function_words_are_lower_case():
    assert all(word == word.lower() for word in FUNCTION_WORDS)


@pytest.mark.parametrize("word", ["dog", "two", "front", "sitting", "red", "t-shirt", "perro", "été"])
def test_is_content_word_of_objects_attributes_and_actions_is_true(word):
    assert is_content_word(word)


@pytest.mark.parametrize("word", ["the", "in", "is", "himself", "others", "'s", "don't", "8", "<end>", ""])
def test_is_content_word_of_function_words_and_symbols_is_false(word):
    assert not is_content_word(word)

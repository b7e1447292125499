"""Parts of speech of the words of captions."""

import pytest

from eval.parts_of_speech import TaggedWord, Tagger, possible_parts

pytest.importorskip("lemminflect")


def parts(captions: list[str], caption: str) -> dict[str, set[str]]:
    """Return the base forms of a caption by part, with the votes of `captions`."""
    found: dict[str, set[str]] = {}
    for part, lemma in Tagger(text.split() for text in captions).tag(caption.split()):
        found.setdefault(part, set()).add(lemma)
    return found


def test_tagger_tags_objects_attributes_verbs_counts_and_colors():
    captions = ["two young dogs in grey coats are running through tall grass", "3 boys play near a building"]
    assert parts(captions, captions[0]) == {
        "counts": {"two"}, "attributes": {"young", "tall"}, "objects": {"dog", "coat", "grass"},
        "colors": {"gray"}, "verbs": {"run"},
    }  # fmt: skip
    assert parts(captions, captions[1]) == {"counts": {"three"}, "objects": {"boy", "building"}, "verbs": {"play"}}


@pytest.mark.parametrize(
    ("captions", "word", "tag"),
    [
        (["dogs play", "boys play", "a play"], "play", TaggedWord("verbs", "play")),  # two votes to one
        (["dogs play", "a play", "the play"], "play", TaggedWord("objects", "play")),
        (["a stop sign", "the stop sign"], "sign", TaggedWord("objects", "sign")),  # base form after a singular noun
        (["a dog watches"], "watches", TaggedWord("verbs", "watch")),
        (["the little boy"], "little", TaggedWord("attributes", "little")),  # a noun comes next
        (["a snowskating elk"], "snowskating", TaggedWord("verbs", "snowskating")),  # not in the lexicon
        (["a wakeskater"], "wakeskater", TaggedWord("objects", "wakeskater")),
    ],
)
def test_tagger_ambiguous_word_is_what_most_occurrences_are(captions, word, tag):
    assert Tagger(text.split() for text in captions).tag([word]) == {tag}


def test_possible_parts_of_function_words_and_punctuation_are_none():
    assert [possible_parts(word) for word in ("the", "behind", "one", "'s", "-lrb-", "")] == [{}] * 6

"""Part of speech and base form of the words of captions.

Colors and counts are closed lists. Other content words are looked up in the SPECIALIST lexicon of the NIH, which
lemminflect ships. If a word can be several parts, such as "play" or "building", each of its occurrences votes:

- After a determiner, count, color, preposition, or a word that can be an adjective but no verb, the word is in a noun
  phrase. It counts as an attribute if it can be one and the next word can be a noun ("a young boy"), else as an object.
- Elsewhere it counts as a verb ("boys play"), unless it is in its base form after a singular noun ("a stop sign").

A word without an entry is a verb if it ends in -ing or -ed, else an object.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

from handler.function_words import FUNCTION_WORDS

PARTS = ("objects", "attributes", "verbs", "counts", "colors")
MISSING = "lemminflect is not installed"

_COLORS = "red orange yellow green blue purple pink brown black white gray tan beige gold silver maroon teal turquoise"
_NUMERALS = "two three four five six seven eight nine ten eleven twelve"
_OTHER_COUNTS = "both pair couple few several many dozen"
_BEFORE_VERBS = (
    "am are be been being is was were has have having had do does did could may might must shall should will would can "
    "not to he she they we us i it who which that and or but as while when where then"
)
_SAME = {"grey": "gray", "colour": "color"} | {str(number): word for number, word in enumerate(_NUMERALS.split(), 2)}
_UNIVERSAL = {"NOUN": "objects", "PROPN": "objects", "ADJ": "attributes", "VERB": "verbs"}

COLORS = frozenset(_COLORS.split())
COUNTS = frozenset(f"{_NUMERALS} {_OTHER_COUNTS}".split())
"""Counts, without "one", which is a pronoun in most captions ("one of them")."""

_VERB_CONTEXT = frozenset(_BEFORE_VERBS.split())
"""Function words before which no noun phrase is open: auxiliaries, subjects, conjunctions."""


class TaggedWord(NamedTuple):
    """A content word: its part, one of `PARTS`, and its base form."""

    part: str
    lemma: str


def is_installed() -> bool:
    """Return True if the lexicon is installed."""
    return find_spec("lemminflect") is not None


class Tagger:
    """Tags the content words of captions.

    Args:
        captions: Captions as tokens, lower-case, that decide the part of words with several.
    """

    def __init__(self, captions: Iterable[Sequence[str]]) -> None:
        contexts: Counter[tuple[str, str, str]] = Counter()
        for tokens in captions:
            contexts.update(zip(["a", *tokens], tokens, [*tokens[1:], ""], strict=False))
        votes: dict[str, Counter[str]] = {}
        for (before, word, after), count in contexts.items():
            if len(possible_parts(word)) > 1:
                votes.setdefault(word, Counter())[_vote(before, word, after)] += count
        self._votes = votes
        self._tags: dict[str, TaggedWord | None] = {}

    def tag(self, tokens: Sequence[str]) -> set[TaggedWord]:
        """Return the content words of a caption."""
        tags = self._tags
        for token in tokens:
            if token not in tags:
                tags[token] = self._tag_word(token)
        return {tag for token in tokens if (tag := tags[token])}

    def _tag_word(self, word: str) -> TaggedWord | None:
        possible = possible_parts(word)
        if not possible:
            return None
        votes = self._votes.get(word, Counter())
        part = max(possible, key=lambda part: (votes[part], -PARTS.index(part)))
        return TaggedWord(part, possible[part])


@cache
def possible_parts(word: str) -> dict[str, str]:
    """Return the base form of a word by each part that it can be; empty for function words and adverbs."""
    word = _SAME.get(word, word)
    if word in COLORS:
        return {"colors": word}
    if word in COUNTS:
        return {"counts": word}
    if word in FUNCTION_WORDS or not all(map(str.isalpha, word.split("-"))):
        return {}
    from lemminflect import getAllLemmas  # takes a second

    if not (found := getAllLemmas(word)):
        return {"verbs" if word.endswith(("ing", "ed")) else "objects": word}
    return {_UNIVERSAL[universal]: lemmas[0] for universal, lemmas in found.items() if universal in _UNIVERSAL}


def _vote(before: str, word: str, after: str) -> str:
    """Return the part of an ambiguous word between two words."""
    possible = possible_parts(word)
    if _opens_noun_phrase(before):
        if "attributes" in possible and "objects" in possible_parts(after):
            return "attributes"
        if "objects" in possible:
            return "objects"
    elif "verbs" in possible and not (possible["verbs"] == word and _is_singular_noun(before)):
        return "verbs"
    return next(part for part in PARTS if part in possible)


def _opens_noun_phrase(word: str) -> bool:
    if word in FUNCTION_WORDS:
        return word not in _VERB_CONTEXT
    possible = possible_parts(word)
    return "verbs" not in possible and not {"attributes", "counts", "colors"}.isdisjoint(possible)


def _is_singular_noun(word: str) -> bool:
    return possible_parts(word).get("objects") == word != "people"

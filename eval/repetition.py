"""Detect captions that say a content word twice, e.g. "a man on a camera in front of a camera".

Holtzman et al. 2020 (https://arxiv.org/abs/1904.09751) describe repetition as the degeneration of likelihood-maximizing
search. Scores against references hardly show it: the repeated word may well be in a reference.
"""

from collections.abc import Iterable, Sequence

from handler.function_words import is_content_word


def repeats_content_word(tokens: Iterable[str]) -> bool:
    """Return True if a content word occurs twice."""
    content = list(filter(is_content_word, tokens))
    return len(set(content)) < len(content)


def repeat_share(captions: Sequence[Sequence[str]]) -> float:
    """Compute the share of captions, given as tokens, that say a content word twice; 0 to 1."""
    return sum(map(repeats_content_word, captions)) / len(captions)

"""A caption's text → words, and the vocabulary that a training split gives."""

import re
from collections import Counter
from collections.abc import Iterable

from handler.modeling.vocabulary import SPECIAL, Vocabulary

# A possessive 's is a word of its own, as for the PTB tokenizer that scores; inner hyphens and apostrophes stay.
WORD = re.compile(r"'s\b|[^\W_]+(?:[-'](?!s\b)[^\W_]+)*")


def tokenize(caption: str) -> list[str]:
    """Lower-case words without punctuation: "A man's T-shirt." → a, man, 's, t-shirt."""
    return WORD.findall(caption.lower().replace("’", "'"))


def build_vocabulary(captions: Iterable[str], min_count: int) -> Vocabulary:
    """The words that occur at least `min_count` times, the commonest first, equally common ones by alphabet.

    Raises:
        ValueError: no word does.
    """
    counts = Counter(word for caption in captions for word in tokenize(caption))
    kept = sorted(
        (word for word, count in counts.items() if count >= min_count), key=lambda word: (-counts[word], word)
    )
    if not kept:
        raise ValueError(f"No word of the training split occurs {min_count} times: lower min_count.")
    return Vocabulary((*SPECIAL, *kept))

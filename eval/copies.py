"""Detect captions that are copies of captions of the training split."""

from collections.abc import Collection, Iterable


def normalize(text: str) -> str:
    """Remove case and punctuation, so that copies are equal."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())


def copied_share(captions: Collection[str], known: Collection[str]) -> float:
    """Compute the share of captions that are in `known`, a set of normalized captions; 0 to 1."""
    return sum(normalize(caption) in known for caption in captions) / len(captions)


def normalize_all(captions: Iterable[str]) -> frozenset[str]:
    """Return the different captions, normalized."""
    return frozenset(map(normalize, captions))

"""Recall of the words that people agree on: those of at least two references of an image, by part of speech."""

from collections import Counter
from collections.abc import Collection, Sequence

from eval.parts_of_speech import PARTS, TaggedWord

MIN_REFERENCES = 2  # that share a word

Words = Collection[TaggedWord]


def shared_words(references: Sequence[Words]) -> set[TaggedWord]:
    """Return the words that at least two references of an image have."""
    counts = Counter(word for reference in references for word in set(reference))
    return {word for word, count in counts.items() if count >= MIN_REFERENCES}


def word_recall(captions: Sequence[Words], shared: Sequence[Words]) -> dict[str, float]:
    """Compute the share of the shared words of all images that the captions have, by part.

    Args:
        captions: Words of the caption of each image.
        shared: Shared words of each image; see `shared_words`.

    Returns:
        Recall by part, 0 to 1, without the parts that no image shares a word of.
    """
    total = Counter(word.part for words in shared for word in words)
    hits = Counter(
        word.part for words, of_caption in zip(shared, captions, strict=True) for word in words if word in of_caption
    )
    return {part: hits[part] / total[part] for part in PARTS if total[part]}

"""Text ↔ token ids: tokenization, the vocabulary, and detokenization."""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unk>"
SPECIAL = (PAD, START, END, UNKNOWN)
PAD_ID = SPECIAL.index(PAD)  # equal in every vocabulary, so that decoders know padding without one

# A possessive 's is its own token, as in the PTB tokenizer of the metrics; inner hyphens and apostrophes stay.
WORD = r"'s\b|{part}(?:[-'](?!s\b){part})*"
ENGLISH_WORD = re.compile(WORD.format(part=r"[^\W_]+"))
# Apostrophes and hyphens of typography; a soft hyphen and a byte order mark inside a word are invisible.
TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "‐": "-", "‑": "-", "\u00ad": "", "\ufeff": ""})


class Vocabulary:
    """Tokens of a model; the id of a token is its index, the four special tokens first.

    Args:
        tokens: All tokens, starting with `<pad>`, `<start>`, `<end>`, `<unk>`.

    Raises:
        ValueError: If the special tokens are not the first four, or a token is repeated.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(tokens)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if self.tokens[: len(SPECIAL)] != SPECIAL:
            raise ValueError(f"A vocabulary starts with {' '.join(SPECIAL)}, not with {' '.join(self.tokens[:4])}.")
        if len(self._ids) != len(self.tokens):
            raise ValueError("A vocabulary holds each token once, but a token is repeated.")
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = range(len(SPECIAL))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Map tokens to ids; a token that is not in the vocabulary becomes `<unk>`."""
        return [self._ids.get(token, self.unk_id) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Map ids to tokens, special ones included."""
        return [self.tokens[index] for index in ids]

    def save(self, path: Path) -> None:
        """Write one token per line; the line number, counted from 0, is its id."""
        path.write_text("".join(f"{token}\n" for token in self.tokens), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read a file written by `save`.

        Raises:
            ValueError: As the class.
        """
        return cls(path.read_text(encoding="utf-8").splitlines())


def build_vocabulary(captions: Iterable[str], min_count: int, known: Sequence[str] = SPECIAL) -> Vocabulary:
    """Build a vocabulary of frequent words, most frequent first, ties in alphabetical order.

    Args:
        captions: Texts of the training split.
        min_count: Minimum number of occurrences, ≥ 1.
        known: Tokens that come first, those of another vocabulary.

    Raises:
        ValueError: If there are no known words, and no word occurs `min_count` times.
    """
    counts = Counter(word for caption in captions for word in tokenize(caption))
    frequent = [word for word, count in counts.items() if count >= min_count]
    new = sorted(set(frequent) - set(known), key=lambda word: (-counts[word], word))
    if not new and len(known) == len(SPECIAL):
        raise ValueError(f"No word of the training split occurs {min_count} times. Lower min_count.")
    return Vocabulary((*known, *new))


def tokenize(caption: str) -> list[str]:
    """Split a caption into lower-case words without punctuation: "A man's T-shirt." → a, man, 's, t-shirt.

    Letters with marks are composed (Unicode NFC), and other marks stay with their letter, e.g. vowel signs of Hindi and
    Thai. Words of scripts without spaces between words have to be separated first.
    """
    text = caption.lower()
    if text.isascii():
        return ENGLISH_WORD.findall(text)
    return _word_with_marks().findall(unicodedata.normalize("NFC", text).translate(TYPOGRAPHY))


@cache
def _word_with_marks() -> re.Pattern[str]:
    """Return the pattern of words with marks: `re` takes these for punctuation. Building it takes 0.2 s."""
    marks = "".join(char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char)[0] == "M")
    joiner = r"[\u200c\u200d](?=[^\W_])"  # zero-width, e.g. between the parts of a Persian word
    return re.compile(WORD.format(part=rf"[^\W_]+(?:(?:[{marks}]|{joiner})[^\W_]*)*"))


def unknown_share(captions: Iterable[str], vocabulary: Vocabulary) -> float:
    """Return the share of the words that are not in a vocabulary, 0 to 1; 0 if there are no words."""
    counts = Counter(word for caption in captions for word in tokenize(caption))
    unknown = sum(counts[word] for word in counts.keys() - set(vocabulary.tokens))
    return unknown / max(counts.total(), 1)


def detokenize(tokens: Iterable[str]) -> str:
    """Join tokens with spaces to a sentence; a possessive `'s` is attached to its word."""
    return " ".join(tokens).replace(" 's", "'s")

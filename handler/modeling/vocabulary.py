"""Token ids ↔ words."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unk>"
SPECIAL = (PAD, START, END, UNKNOWN)
PAD_ID = SPECIAL.index(PAD)  # the same in every vocabulary, so that decoders know padding without one

# A possessive 's is a word of its own, as for the PTB tokenizer that scores; inner hyphens and apostrophes stay.
WORD = re.compile(r"'s\b|[^\W_]+(?:[-'](?!s\b)[^\W_]+)*")


class Vocabulary:
    """The tokens a model knows; a token's id is its place in the list, the four special ones first.

    Args:
        tokens: all tokens, `<pad>`, `<start>`, `<end>`, `<unk>` first.

    Raises:
        ValueError: the special tokens are not the first four, or a token is there twice.
    """

    def __init__(self, tokens: Iterable[str]):
        self.tokens = tuple(tokens)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if self.tokens[: len(SPECIAL)] != SPECIAL:
            raise ValueError(
                f"A vocabulary starts with {' '.join(SPECIAL)}, this one with {' '.join(self.tokens[:4])}."
            )
        if len(self._ids) != len(self.tokens):
            raise ValueError("A vocabulary holds each token once; in this one a token stands twice.")
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = range(len(SPECIAL))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, words: Sequence[str]) -> list[int]:
        """Words → ids; a word that is not in the vocabulary becomes `<unk>`."""
        return [self._ids.get(word, self.unk_id) for word in words]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Ids → tokens, special ones included."""
        return [self.tokens[index] for index in ids]

    def save(self, path: Path) -> None:
        """Writes a token a line; the line number, counted from 0, is its id."""
        path.write_text("".join(f"{token}\n" for token in self.tokens), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads what `save` wrote.

        Raises:
            ValueError: see the class.
        """
        return cls(path.read_text(encoding="utf-8").splitlines())


def detokenize(tokens: Iterable[str]) -> str:
    """Tokens → a sentence: blanks between, a possessive `'s` back on its word."""
    return " ".join(tokens).replace(" 's", "'s")


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

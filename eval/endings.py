"""Detect truncated captions, e.g. "a man riding a wave on a".

CIDEr does not measure whether a sentence is complete. Models trained on it learn to stop at the function word of a
common n-gram, which no score shows. Similar lists are used by https://github.com/ruotianluo/self-critical.pytorch.
"""

import re
from collections.abc import Iterable

_BY_KIND = {
    "determiners": "a an the this that these those every some any several my your his its our their whose",
    "prepositions": "across against amid among amongst as at atop beside between during for from in into like near of "
    "on onto than through to toward towards under until upon via with within without",
    "conjunctions and clause openers": "and although because but if nor or since though unless when where "
    "whereas whether which while who whom what how",
    "auxiliaries": "am are be been being is was were had has have having did do does could may might must shall should "
    "will would",
    "subject pronouns": "he she they we i",
}

FUNCTION_WORDS = frozenset(word for words in _BY_KIND.values() for word in words.split())
"""Words that cannot end a complete caption.

Function words that do end captions are excluded: objects ("beside her", it, another), particles ("a dog runs by", "its
tongue out", "topples over", up, down, off, around, along, past, about, before, after), places ("seen from behind",
above, below, inside, outside, underneath) and "a watering can". The words above end 0.3 % of the Flickr8k captions,
mostly as particles: "with his hat on", "is about to", "waves coming in".
"""

WORD = re.compile(r"['’]s\b|[^\W_]+(?:['’-][^\W_]+)*")
LOOK = frozenset({"look", "looked", "looking", "looks"})  # "as a crowd looks on" is complete


def bad_endings(captions: Iterable[str]) -> float:
    """Compute the share of captions that end in a function word or a possessive 's, or have no words.

    Args:
        captions: Texts, tokenized or not; case and punctuation are ignored.

    Returns:
        Share, 0 to 1.

    Raises:
        ValueError: If there are no captions.
    """
    truncated = [_is_truncated(caption) for caption in captions]
    if not truncated:
        raise ValueError("There are no captions.")
    return sum(truncated) / len(truncated)


def _is_truncated(caption: str) -> bool:
    *before, last = WORD.findall(caption.lower()) or [""]
    if last == "on" and before and before[-1] in LOOK:
        return False
    return last in FUNCTION_WORDS or last.endswith(("'s", "’s")) or not last

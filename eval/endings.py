"""How many captions break off: "a man riding a wave on a".

CIDEr does not ask whether a sentence ends. Captioners trained on it learn to stop at a common n-gram's function word,
and no score tells; lists like this one go back to https://github.com/ruotianluo/self-critical.pytorch.
"""

import re
from collections.abc import Iterable

_BY_KIND = {
    "determiners": "a an the this that these those every some any several my your his its our their whose",
    "prepositions": "across against amid among amongst as at atop beside between during for from in into like near of "
    "on onto than through to toward towards under until upon via with within without",
    "conjunctions and what begins a clause": "and although because but if nor or since though unless when where "
    "whereas whether which while who whom what how",
    "auxiliaries": "am are be been being is was were had has have having did do does could may might must shall should "
    "will would",
    "pronouns that are subjects alone": "he she they we i",
}

FUNCTION_WORDS = frozenset(word for words in _BY_KIND.values() for word in words.split())
"""Words that want another one after them.

Those that people rightly end captions with are left out: objects ("beside her", it, another), particles ("a dog runs
by", "its tongue out", "topples over", up, down, off, around, along, past, about, before, after), places ("seen from
behind", above, below, inside, outside, underneath) and "a watering can". What stays ends 0.3 % of Flickr8k's captions,
most of them with a particle again: "with his hat on", "is about to", "waves coming in".
"""

WORD = re.compile(r"['’]s\b|[^\W_]+(?:['’-][^\W_]+)*")
LOOKING = frozenset({"look", "looked", "looking", "looks"})  # "as a crowd looks on" is whole


def bad_endings(captions: Iterable[str]) -> float:
    """The share of captions that end in a function word or a possessive 's, or have no words.

    Args:
        captions: texts, tokenized or not; case and punctuation do not matter.

    Returns:
        0 to 1.

    Raises:
        ValueError: there are no captions.
    """
    broken = [_breaks_off(caption) for caption in captions]
    if not broken:
        raise ValueError("There are no captions.")
    return sum(broken) / len(broken)


def _breaks_off(caption: str) -> bool:
    *before, last = WORD.findall(caption.lower()) or [""]
    if last == "on" and before and before[-1] in LOOKING:
        return False
    return last in FUNCTION_WORDS or last.endswith(("'s", "’s")) or not last

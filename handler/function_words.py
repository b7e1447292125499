"""English function words, and content words: the words of a caption that carry its objects, attributes and actions."""

_BY_KIND = {
    "determiners": "a an the this that these those every some any several many much more most few all both each no "
    "other others another such same own my your his her its our their whose",
    "prepositions": "about above across after against along amid among amongst around as at atop away before behind "
    "below beneath beside besides between beyond by despite down during except for from in inside into like near of "
    "off on onto out outside over past per through throughout to toward towards under underneath until up upon via "
    "with within without",
    "conjunctions": "and although because but if nor or since so than then though unless when where whereas whether "
    "which while whilst who whom what how",
    "auxiliaries": "am are be been being is was were has have having had do does did could may might must shall should "
    "will would can not",
    "pronouns": "he him she they them we us i me you it one ones someone something somebody anyone anything everyone "
    "everything none itself himself herself themselves myself yourself there here",
    "adverbs": "also just only too very",
    "contractions": "'s s t aren't can't doesn't don't isn't won't",
}

FUNCTION_WORDS = frozenset(word for words in _BY_KIND.values() for word in words.split())


def is_content_word(word: str) -> bool:
    """Return True if a lower-case word starts with a letter and is no English function word.

    Words of other languages and words with a hyphen, e.g. "t-shirt", are content words. Numerals in digits, special
    tokens such as `<end>`, and the possessive "'s" are not.
    """
    return word[:1].isalpha() and word not in FUNCTION_WORDS

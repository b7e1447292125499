"""English function words: words that a caption may repeat, unlike its objects, attributes and actions."""

_BY_KIND = {
    "determiners": "a an the this that these those every some any several many much more most few all both each no "
    "other another such my your his her its our their whose",
    "prepositions": "about above across after against along amid among amongst around as at atop away before behind "
    "below beneath beside besides between beyond by down during for from in inside into like near of off on onto out "
    "outside over past per through throughout to toward towards under underneath until up upon via with within without",
    "conjunctions": "and although because but if nor or since so than then though unless when where whereas whether "
    "which while who whom what how",
    "auxiliaries": "am are be been being is was were has have having had do does did could may might must shall should "
    "will would can not",
    "pronouns": "he him she they them we us i me you it one ones someone something itself himself herself themselves "
    "there here",
    "contractions": "'s s t",
}

FUNCTION_WORDS = frozenset(word for words in _BY_KIND.values() for word in words.split())

"""Text ↔ token ids: tokenization, building a vocabulary, detokenization."""

import pytest

from handler.modeling.vocabulary import SPECIAL, Vocabulary, build_vocabulary, detokenize, tokenize, unknown_share


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog runs .", ["a", "dog", "runs"]),
        ("A man's T-shirt, torn!", ["a", "man", "'s", "t-shirt", "torn"]),
        ("two dogs ' toys", ["two", "dogs", "toys"]),
        ("a dog 's ball", ["a", "dog", "'s", "ball"]),
        ("they don't look", ["they", "don't", "look"]),
        ("The woman’s 2 cats", ["the", "woman", "'s", "2", "cats"]),
        ("black - and - white", ["black", "and", "white"]),
        ("snow_covered hill\n", ["snow", "covered", "hill"]),
        ("a café", ["a", "café"]),
        ("a cafe\u0301", ["a", "café"]),  # decomposed
        ("CAFE\u0301's menu", ["café", "'s", "menu"]),
        ("am\u0303o", ["am\u0303o"]),  # no composed letter exists
        ("यह एक हिन्दी शब्द है।", ["यह", "एक", "हिन्दी", "शब्द", "है"]),
        ("สุนัข วิ่ง", ["สุนัข", "วิ่ง"]),
        ("שָׁלוֹם, كَلْب!", ["שָׁלוֹם", "كَلْب"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("一只狗 在 草地", ["一只狗", "在", "草地"]),
        ("\uac01", ["\uac01"]),
        ("\u1100\u1161\u11a8", ["\uac01"]),  # Hangul of three letters
        ("a dog\u200d 🐶❤\ufe0f", ["a", "dog"]),
        ("they don‘t, donʼt", ["they", "don't", "don't"]),
        ("‘small’ “dogs” — t‑shirt", ["small", "dogs", "t-shirt"]),
        ("a\u00a0dog\u2028runs\u200bfar co\u00adoperate", ["a", "dog", "runs", "far", "cooperate"]),
        ("\u0301a", ["a"]),
        ("...", []),
    ],
)
def test_tokenize_splits_into_lower_case_words(caption, words):
    assert tokenize(caption) == words


@pytest.mark.parametrize(
    ("captions", "share"),
    [
        (["a dog", "a zebra runs"], 2 / 5),  # zebra and runs
        (["a dog"], 0),
        (["<unk> emu"], 1),  # the special token is no word: "unk"
        (["..."], 0),
        ([], 0),
    ],
)
def test_unknown_share_counts_words(captions, share):
    assert unknown_share(captions, build_vocabulary(["a dog"], 1)) == pytest.approx(share)


def test_build_vocabulary_sorts_by_count_then_alphabet():
    vocabulary = build_vocabulary(["a dog a cat", "a dog", "the cat", "one bird"], min_count=2)
    assert vocabulary.tokens == (*SPECIAL, "a", "cat", "dog")
    assert vocabulary.encode(["a", "dog", "bird"]) == [4, 6, vocabulary.unk_id]
    assert vocabulary.decode([4, 5, vocabulary.eos_id]) == ["a", "cat", "<end>"]


def test_build_vocabulary_known_tokens_keep_their_ids_and_new_words_follow():
    known = build_vocabulary(["a cat sat"], 1)
    extended = build_vocabulary(["a zebra", "a zebra", "an emu"], 1, known.tokens)
    assert extended.tokens == (*known.tokens, "zebra", "an", "emu")
    assert build_vocabulary(["an emu"], 2, known.tokens).tokens == known.tokens  # no new word is frequent


def test_save_writes_the_token_of_an_id_on_its_line(tmp_path):
    vocabulary = build_vocabulary(["a dog"], min_count=1)
    vocabulary.save(tmp_path / "vocabulary.txt")
    assert (tmp_path / "vocabulary.txt").read_text().split("\n") == [*SPECIAL, "a", "dog", ""]
    assert Vocabulary.load(tmp_path / "vocabulary.txt").tokens == vocabulary.tokens


@pytest.mark.parametrize(
    ("tokens", "message"),
    [(("a", "b", "c", "d"), "starts with <pad>"), ((*SPECIAL, "a", "a"), "a token is repeated"), ((), "starts with")],
)
def test_vocabulary_with_invalid_tokens_raises(tokens, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(tokens)


def test_build_vocabulary_without_frequent_words_raises():
    with pytest.raises(ValueError, match="occurs 9 times"):
        build_vocabulary(["a dog a cat"], min_count=9)


def test_detokenize_inverts_tokenize():
    assert detokenize(tokenize("A man's dog and a t-shirt .")) == "a man's dog and a t-shirt"

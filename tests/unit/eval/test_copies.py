"""Captions copied from the training split."""

from eval.copies import copied_share, normalize_all


def test_copied_share_ignores_case_and_punctuation():
    known = normalize_all(["A dog runs.", "Two men, one t-shirt"])
    assert copied_share(["a dog runs", "two men one t-shirt", "a dog", ""], known) == 0.5

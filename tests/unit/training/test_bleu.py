"""BLEU-4 of single captions, compared with values computed by hand."""

import pytest

from training.rewards import SentenceBleu


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        # n = 1: 3/4, 2: (2 + 1)/(3 + 1), 3: (1 + 1)/(2 + 1), 4: (0 + 1)/(1 + 1); product 0.1875, its fourth
        # root 0.658037. The references have 3 and 5 tokens, equally near to 4; the shorter one counts.
        ([1, 2, 3, 9], 0.658037),
        # Token 1 is twice in the second: n = 1: 3/3, 2: (2 + 1)/(2 + 1), 3: (0 + 1)/(1 + 1), 4: 1/1; the product
        # is 0.5, its fourth root 0.840896.
        ([1, 1, 2], 0.840896),
        # All tokens match, but the nearest reference has 3: exp(1 - 3/2).
        ([1, 2], 0.606531),
        ([1, 2, 3, 4, 5], 1.0),
        ([9, 9], 0.0),
        ([], 0.0),
    ],
)
def test_sentence_bleu_equals_manual_value(caption, expected):
    reward = SentenceBleu([[[7]], [[1, 2, 3, 4, 5], [1, 1, 3]]])
    assert reward.score([1], [caption]) == pytest.approx([expected], abs=1e-6)

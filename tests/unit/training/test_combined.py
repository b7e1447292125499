"""The weighted sum of rewards."""

import numpy as np

from handler.modeling.vocabulary import SPECIAL, Vocabulary
from tests.helpers.trainings import FakeMeteor
from training.rewards import CiderD, SentenceBleu, SentenceMeteor, build_reward


def test_combined_reward_is_the_weighted_sum(monkeypatch):
    monkeypatch.setattr("training.rewards.meteor.Meteor", FakeMeteor)
    vocabulary = Vocabulary((*SPECIAL, *"abcdefgh"))
    references, captions = [[[5, 6, 7, 8]], [[9, 10]]], [[5, 6, 7], [9, 10]]
    parts = [CiderD(references), SentenceBleu(references), SentenceMeteor(references, vocabulary)]
    cider, bleu, meteor = (part.score([0, 1], captions) for part in parts)
    reward = build_reward(references, vocabulary, bleu=0.5, meteor=3.0)
    scores = reward.score([0, 1], captions)
    assert list(scores) == ["cider_d", "bleu_4", "meteor"]
    for actual, expected in zip(scores.values(), (cider, bleu, meteor), strict=True):
        assert actual.tolist() == expected.tolist()
    np.testing.assert_allclose(reward.total(scores), cider + 0.5 * bleu + 3 * meteor, atol=1e-12)
    assert list(build_reward(references, vocabulary, bleu=0, meteor=0).parts) == ["cider_d"]
    assert min(*cider, *bleu, *meteor) > 0

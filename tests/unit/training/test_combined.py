"""The weighted sum of rewards and penalties."""

import pytest

from handler.modeling.vocabulary import SPECIAL, Vocabulary
from training.config import SelfCriticalConfig
from training.rewards import NgramOveruse, build_reward

VOCABULARY = Vocabulary((*SPECIAL, "a", "dog", "runs", "cat", "sleeps"))
REFERENCES = [[VOCABULARY.encode(["a", "dog", "runs"])], [VOCABULARY.encode(["a", "cat", "sleeps"])]]


def test_build_reward_is_cider_d_unless_other_parts_have_a_weight():
    reward = build_reward(SelfCriticalConfig(), REFERENCES, [0, 0], VOCABULARY)
    assert {name: weight for name, (weight, _) in reward.parts.items()} == {"cider_d": 1}
    assert reward.overuse is None


def test_combined_reward_subtracts_penalties_from_rewards():
    config = SelfCriticalConfig(bleu=0.5, overuse=0.25, repetition=2.0, length=3.0)
    reward = build_reward(config, REFERENCES, [0, 0], VOCABULARY)
    assert isinstance(reward.overuse, NgramOveruse)
    scores = reward.score([0], [VOCABULARY.encode(["a", "dog", "dog", "runs"])])
    assert list(scores) == ["cider_d", "bleu_4", "overuse", "repetition", "length"]
    assert (scores["repetition"].tolist(), scores["length"].tolist()) == ([1], [pytest.approx(1 / 3)])
    scores["overuse"][:] = 0.8  # nothing is overused before the first update
    expected = scores["cider_d"][0] + 0.5 * scores["bleu_4"][0] - 0.25 * 0.8 - 2 - 1
    assert reward.total(scores).tolist() == pytest.approx([expected])
    assert min(scores["cider_d"][0], scores["bleu_4"][0]) > 0

"""The rewards of token ids: worked by hand, and against pycocoevalcap."""

import math

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from eval.meteor import Meteor, MeteorError
from handler.modeling.vocabulary import SPECIAL, Vocabulary
from training.rewards import build_reward
from training.rewards.bleu import SentenceBleu
from training.rewards.cider_d import CiderD
from training.rewards.meteor import SentenceMeteor


def corpus(seed: int, images: int, words: int = 60):
    """References and a caption for each image: 1 to 5 references of 0 to 16 ids, negative and large ones among them."""
    random = np.random.default_rng(seed)
    ids = random.permutation(np.concatenate([np.arange(-5, words - 7), [-(2**40), 2**62]]))

    def caption():
        length = random.integers(17)
        return [int(ids[min(number, len(ids)) - 1]) for number in random.zipf(1.5, length)]

    references = [[caption() for _ in range(random.integers(1, 6))] for _ in range(images)]
    return references, [caption() for _ in range(images)]


def coco_cider(references, captions) -> np.ndarray:
    """What coco-caption says of the same, the ids as words."""

    def text(ids):
        return " ".join(map(str, ids))

    wanted = {index: [text(ids) for ids in some] for index, some in enumerate(references)}
    return Cider().compute_score(wanted, {index: [text(ids)] for index, ids in enumerate(captions)})[1]


@pytest.mark.parametrize(("seed", "images"), [(0, 2), (1, 3), (2, 50), (3, 400)])
def test_equals_coco_caption(seed, images):
    references, captions = corpus(seed, images)
    expected = coco_cider(references, captions)
    assert expected.max() > 0.1
    found = CiderD(references).score(range(images), captions)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_references_as_captions_equal_coco_caption():
    references, _ = corpus(4, 100)
    captions = [some[-1] for some in references]
    found = CiderD(references).score(range(100), captions)
    np.testing.assert_allclose(found, coco_cider(references, captions), rtol=0, atol=1e-9)
    assert found.max() == pytest.approx(10)  # where it is the only reference


@pytest.mark.parametrize(
    ("image", "caption", "expected"),
    [
        # Of 2 images, 1 is in both: idf log 2/2 = 0. The others are in one: L = log 2. So are all pairs.
        # Single words: [0, L] against [0, L], similarity 1; pairs: 1; no longer n-grams. 10 · (1 + 1 + 0 + 0) / 4.
        (0, [1, 2], 5.0),
        # Only 1 is shared, which weighs nothing.
        (1, [1, 2], 0.0),
        # 2 three times is 3L long, clipped to the reference's L: L·L / 3L·L = 1/3. The pair (2 2) is in no reference.
        # One word longer than the reference: e^(-1² / (2 · 6²)).
        (0, [2, 2, 2], 10 / 4 / 3 * math.exp(-1 / 72)),
        # 9 is in no reference and weighs L, as if one image had it: [L, L] against [L] is 1/√2. So with the pair (9 2).
        (0, [9, 2], 10 / 4 / math.sqrt(2)),
        # Two references: like [1, 2] above against the first; with the second, 3, nothing is shared.
        (2, [4, 5], 10 / 4 * (2 + 0) / 2),
        (0, [], 0.0),
        (0, [9, 9, 9, 9, 9], 0.0),
    ],
)
def test_by_hand(image, caption, expected):
    # The third image is there in its own case alone, for it changes the number of images, and with it the IDF.
    references = [[[1, 2]], [[1, 3]]] if image < 2 else [[[1]], [[1]], [[4, 5], [3]]]
    assert CiderD(references).score([image], [caption]) == pytest.approx([expected], abs=1e-12)


def test_captions_are_scored_one_by_one():
    """An image many times, others not at all, in any order and company: the IDF is the references' alone."""
    references, captions = corpus(5, 30)
    reward = CiderD(references)
    alone = reward.score(range(30), captions)
    order = [7, 7, 3, 29, 3, 0, 7]
    assert reward.score(order, [captions[index] for index in order]).tolist() == pytest.approx(alone[order].tolist())
    mixed = reward.score([4, 4, 4], [captions[4], captions[5], []])
    assert mixed[0] == pytest.approx(alone[4])
    assert mixed[2] == 0


def test_an_end_is_rewarded():
    end = 2
    reward = CiderD([[[5, 6, 7, end]], [[5, 8, end]], [[9, end]]])
    whole, cut = reward.score([0, 0], [[5, 6, 7, end], [5, 6, 7]])
    assert whole == pytest.approx(10)
    assert cut < whole


def test_no_captions_and_nothing_in_them():
    reward = CiderD([[[1, 2]], [[]]])
    assert reward.score([], []).shape == (0,)
    scores = reward.score([0, 1, 1], [[], [], [1]])
    assert scores.dtype == np.float64
    assert scores.tolist() == [0, 0, 0]
    assert CiderD([[[]]]).score([0], [[1]]).tolist() == [0]
    assert CiderD([[[1, 2, 3, 4]]]).score([0], [[1, 2, 3, 4]]).tolist() == [0]  # of one image, log 1 = 0


@pytest.mark.parametrize("references", [[], [[[1]], []]])
def test_each_image_needs_a_reference(references):
    with pytest.raises(ValueError, match="Each image needs a reference"):
        CiderD(references)


@pytest.mark.parametrize("image", [-1, 2])
def test_there_is_no_such_image(image):
    with pytest.raises(IndexError, match="images are 0 to 1"):
        CiderD([[[1]], [[2]]]).score([0, image], [[1], [1]])


def test_an_image_for_each_caption():
    with pytest.raises(ValueError, match="1 images came with 2 captions"):
        CiderD([[[1]], [[2]]]).score([0], [[1], [1]])


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        # Words 3/4, pairs (2 + 1)/(3 + 1), triples (1 + 1)/(2 + 1), fours (0 + 1)/(1 + 1), product 0.1875, its fourth
        # root 0.658037; of references of 3 and 5 words, as near to 4, the shorter one counts.
        ([1, 2, 3, 9], 0.658037),
        # 1 is twice in the second: words 3/3, pairs (2 + 1)/(2 + 1), triples (0 + 1)/(1 + 1), fours 1/1; the product
        # is 0.5, its fourth root 0.840896.
        ([1, 1, 2], 0.840896),
        # All of it is there, but the nearest reference has 3 words: exp(1 - 3/2).
        ([1, 2], 0.606531),
        ([1, 2, 3, 4, 5], 1.0),
        ([9, 9], 0.0),
        ([], 0.0),
    ],
)
def test_bleu_by_hand(caption, expected):
    reward = SentenceBleu([[[7]], [[1, 2, 3, 4, 5], [1, 1, 3]]])
    assert reward.score([1], [caption]) == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize("cores", [2, 12])
def test_meteor_is_the_jars(monkeypatch, cores):
    monkeypatch.setattr("training.rewards.meteor.available_cpus", lambda: cores)
    words = ["a", "dog", "runs", "in", "the", "grass", "two", "children", "play"]
    vocabulary = Vocabulary((*SPECIAL, *words))
    texts = [["a dog runs in the grass", "a dog in grass"], ["two children play"]]
    references = [[[*vocabulary.encode(text.split()), vocabulary.eos_id] for text in some] for some in texts]
    captions = ["two children play in the grass", "a dog runs", "a dog play", "", "a dog runs", "a dog runs"]
    images = [1, 0, 1, 0, 1, 0]  # the last one a second time
    ids = [vocabulary.encode(text.split()) for text in captions]
    reward = SentenceMeteor(references, vocabulary)
    assert len(reward._jars) == max(1, cores // 4)
    found = reward.score(images, ids)
    with Meteor() as meteor:
        _, expected = meteor.score({i: texts[image] for i, image in enumerate(images)}, dict(enumerate(captions)))
    assert found.tolist() == expected
    assert min(found[:3]) > 0 == found[3]
    assert found[1] == found[5] > found[4]
    assert reward.score([], []).tolist() == []


def test_a_jar_that_ends_is_started_anew_once(monkeypatch, capsys):
    vocabulary = Vocabulary((*SPECIAL, *"ab"))
    reward = SentenceMeteor([[vocabulary.encode("ab")]], vocabulary)
    captions = [vocabulary.encode("ab"), vocabulary.encode("b")]
    expected = reward.score([0, 0], captions)
    reward._jars[0].meteor._process.kill()
    assert reward.score([0, 0], captions).tolist() == expected.tolist()
    assert capsys.readouterr().err == "METEOR's Java ended with status -9 without an answer. It is started anew.\n"
    monkeypatch.setattr("eval.meteor.COMMAND", ("-version",))
    reward._jars[0].meteor._process.kill()
    with pytest.raises(MeteorError, match="METEOR's Java "):
        reward.score([0, 0], captions)


def test_rewards_are_weighed_and_added():
    vocabulary = Vocabulary((*SPECIAL, *"abcdefgh"))
    references, captions = [[[5, 6, 7, 8]], [[9, 10]]], [[5, 6, 7], [9, 10]]
    parts = [CiderD(references), SentenceBleu(references), SentenceMeteor(references, vocabulary)]
    cider, bleu, meteor = (part.score([0, 1], captions) for part in parts)
    mixture = build_reward(references, vocabulary, bleu=0.5, meteor=3.0)
    scores = mixture.score([0, 1], captions)
    assert {name: score.tolist() for name, score in scores.items()} == {
        "cider_d": cider.tolist(), "bleu_4": bleu.tolist(), "meteor": meteor.tolist()
    }  # fmt: skip
    np.testing.assert_allclose(mixture.total(scores), cider + 0.5 * bleu + 3 * meteor, atol=1e-12)
    assert list(build_reward(references, vocabulary, bleu=0, meteor=0).parts) == ["cider_d"]
    assert min(*cider, *bleu, *meteor) > 0

"""CIDEr-D of token ids, compared with values computed by hand and with pycocoevalcap."""

import math

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from training.rewards import CiderD


def corpus(seed: int, images: int, words: int = 60):
    """Return 1 to 5 references and a caption per image, of 0 to 16 ids, some negative or large."""
    random = np.random.default_rng(seed)
    ids = random.permutation(np.concatenate([np.arange(-5, words - 7), [-(2**40), 2**62]]))

    def caption():
        length = random.integers(17)
        return [int(ids[min(number, len(ids)) - 1]) for number in random.zipf(1.5, length)]

    references = [[caption() for _ in range(random.integers(1, 6))] for _ in range(images)]
    return references, [caption() for _ in range(images)]


def coco_cider(references, captions) -> np.ndarray:
    """Score with coco-caption, the ids as words."""

    def text(ids):
        return " ".join(map(str, ids))

    references_by_image = {index: [text(ids) for ids in some] for index, some in enumerate(references)}
    return Cider().compute_score(references_by_image, {index: [text(ids)] for index, ids in enumerate(captions)})[1]


@pytest.mark.parametrize(("seed", "images"), [(0, 2), (1, 3), (2, 50), (3, 400)])
def test_cider_d_equals_coco_caption(seed, images):
    references, captions = corpus(seed, images)
    expected = coco_cider(references, captions)
    assert expected.max() > 0.1
    scores = CiderD(references).score(range(images), captions)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-9)


def test_cider_d_of_references_equals_coco_caption():
    references, _ = corpus(4, 100)
    captions = [some[-1] for some in references]
    scores = CiderD(references).score(range(100), captions)
    np.testing.assert_allclose(scores, coco_cider(references, captions), rtol=0, atol=1e-9)
    assert scores.max() == pytest.approx(10)  # where it is the only reference


@pytest.mark.parametrize(
    ("image", "caption", "expected"),
    [
        # Token 1 is in both images: IDF log 2/2 = 0. All other n-grams are in one: L = log 2.
        # Unigrams: [0, L] and [0, L], similarity 1; bigrams: 1; no longer n-grams. 10 · (1 + 1 + 0 + 0) / 4.
        (0, [1, 2], 5.0),
        # Only token 1 is shared, whose IDF is 0.
        (1, [1, 2], 0.0),
        # 2 three times is 3L long, clipped to the reference's L: L·L / 3L·L = 1/3. The bigram (2 2) is in no reference.
        # One token longer than the reference: e^(-1² / (2 · 6²)).
        (0, [2, 2, 2], 10 / 4 / 3 * math.exp(-1 / 72)),
        # 9 is in no reference, so its IDF is L: [L, L] and [L] give 1/√2, and so does the bigram (9 2).
        (0, [9, 2], 10 / 4 / math.sqrt(2)),
        # Two references: like [1, 2] above against the first; with the second, 3, nothing is shared.
        (2, [4, 5], 10 / 4 * (2 + 0) / 2),
        (0, [], 0.0),
        (0, [9, 9, 9, 9, 9], 0.0),
    ],
)
def test_cider_d_equals_manual_value(image, caption, expected):
    # The third image is only in its own case, because it changes the number of images and so the IDF.
    references = [[[1, 2]], [[1, 3]]] if image < 2 else [[[1]], [[1]], [[4, 5], [3]]]
    assert CiderD(references).score([image], [caption]) == pytest.approx([expected], abs=1e-12)


def test_cider_d_is_independent_of_the_batch():
    """The IDF is that of the references, whatever is scored together."""
    references, captions = corpus(5, 30)
    reward = CiderD(references)
    alone = reward.score(range(30), captions)
    order = [7, 7, 3, 29, 3, 0, 7]
    assert reward.score(order, [captions[index] for index in order]).tolist() == pytest.approx(alone[order].tolist())
    mixed = reward.score([4, 4, 4], [captions[4], captions[5], []])
    assert mixed[0] == pytest.approx(alone[4])
    assert mixed[2] == 0


def test_cider_d_rewards_the_end_token():
    end = 2
    reward = CiderD([[[5, 6, 7, end]], [[5, 8, end]], [[9, end]]])
    complete, cut = reward.score([0, 0], [[5, 6, 7, end], [5, 6, 7]])
    assert complete == pytest.approx(10)
    assert cut < complete


def test_cider_d_without_captions_or_tokens_is_zero():
    reward = CiderD([[[1, 2]], [[]]])
    assert reward.score([], []).shape == (0,)
    scpus = reward.score([0, 1, 1], [[], [], [1]])
    assert scpus.dtype == np.float64
    assert scpus.tolist() == [0, 0, 0]
    assert CiderD([[[]]]).score([0], [[1]]).tolist() == [0]
    assert CiderD([[[1, 2, 3, 4]]]).score([0], [[1, 2, 3, 4]]).tolist() == [0]  # of one image, log 1 = 0


@pytest.mark.parametrize("references", [[], [[[1]], []]])
def test_cider_d_image_without_reference_is_refused(references):
    with pytest.raises(ValueError, match="Each image needs a reference"):
        CiderD(references)


@pytest.mark.parametrize("image", [-1, 2])
def test_cider_d_index_out_of_range_is_refused(image):
    with pytest.raises(IndexError, match="images are 0 to 1, not"):
        CiderD([[[1]], [[2]]]).score([0, image], [[1], [1]])


def test_cider_d_number_of_images_has_to_match():
    with pytest.raises(ValueError, match="1 images and 2 captions"):
        CiderD([[[1]], [[2]]]).score([0], [[1], [1]])

"""Intervals and paired tests, against values computed by hand and by pycocoevalcap."""

import itertools
import math

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor as CocoMeteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from eval.data import read_split
from eval.metrics import CaptionScores, bleu_from_stats, compute_metrics
from eval.significance import _bootstrap_counts, _scores, bootstrap, bootstrap_mean, paired_tests


@pytest.fixture(scope="module")
def split(flickr8k):
    """1,000 images with five references each; the captions are the first ones without every third word."""
    images = read_split(flickr8k, "val")
    captions = {}
    for image in images:
        words = image.captions[0].split()
        captions[image.id] = " ".join(word for index, word in enumerate(words) if index % 3)
    return {image.id: image.captions for image in images}, captions


@pytest.fixture(scope="module")
def measured(split, meteor):
    return compute_metrics(*split, meteor=meteor)


def test_compute_metrics_equals_pycocoevalcap_on_1000_images(split, measured):
    references, captions = split
    tokenizer = PTBTokenizer()
    wanted = tokenizer.tokenize({i: [{"caption": text} for text in some] for i, some in references.items()})
    found = tokenizer.tokenize({i: [{"caption": text}] for i, text in captions.items()})
    bleu, _ = Bleu(4).compute_score(wanted, found, verbose=0)
    for n, score in enumerate(bleu, 1):
        assert measured.scores[f"Bleu_{n}"] == pytest.approx(score, abs=1e-9)
    assert bleu_from_stats(measured.bleu.sum(0)) == pytest.approx(bleu, abs=1e-9)
    for name, coco in (("ROUGE_L", Rouge()), ("CIDEr", Cider())):
        score, each = coco.compute_score(wanted, found)
        assert measured.scores[name] == pytest.approx(score, abs=1e-9)
        assert measured.per_image[name] == pytest.approx(each, abs=1e-9)
    coco = CocoMeteor()
    score, each = coco.compute_score(wanted, found)
    assert measured.scores["METEOR"] == pytest.approx(score, abs=1e-6)
    assert measured.per_image["METEOR"] == pytest.approx(each, abs=1e-6)


def test_scores_of_the_whole_split_equal_its_metrics(measured, meteor):
    whole = _scores([(measured, np.ones((1, len(measured.images))))], meteor)
    for name, score in measured.scores.items():
        # METEOR statistics are summed over images, which is 1e-4 off the score of the single images.
        assert whole[name][0] == pytest.approx(score, abs=2e-4 if name == "METEOR" else 1e-9)


def test_bootstrap_is_reproducible_and_near_the_normal_approximation(measured, meteor):
    intervals = bootstrap(measured, meteor)
    assert bootstrap(measured, meteor, 50) == bootstrap(measured, meteor, 50)
    assert intervals.keys() == measured.scores.keys()
    for name, (low, high) in intervals.items():
        assert low < measured.scores[name] < high
    # CIDEr is a mean: its interval is that of the normal approximation, to a tenth of its width.
    error = measured.per_image["CIDEr"].std() / math.sqrt(len(measured.images))
    low, high = intervals["CIDEr"]
    assert low == pytest.approx(measured.scores["CIDEr"] - 1.96 * error, abs=0.4 * error)
    assert high == pytest.approx(measured.scores["CIDEr"] + 1.96 * error, abs=0.4 * error)


def synthetic_scores(cider: list[float]) -> CaptionScores:
    """Scores with the given CIDEr of each image, and otherwise equal."""
    count = len(cider)
    bleu = np.tile([3.0, 2, 1, 1, 4, 3, 2, 1, 4, 4], (count, 1))
    each = {"ROUGE_L": np.full(count, 0.5), "CIDEr": np.array(cider)}
    scores = {f"Bleu_{n}": score for n, score in enumerate(bleu_from_stats(bleu.sum(0)), 1)}
    scores |= {"ROUGE_L": 0.5, "CIDEr": float(np.mean(cider))}
    return CaptionScores(list(range(count)), {}, {}, scores, bleu, None, each)


def test_paired_tests_p_value_is_near_the_exact_one():
    """Six images, differences of 1, 2, 4 …: 2 of 64 equally likely swaps have as large a sum; p = 2 / 64."""
    a, b = synthetic_scores([0.0] * 6), synthetic_scores([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    total = 63.0
    exact = sum(
        abs(sum(sign * d for sign, d in zip(signs, b.per_image["CIDEr"], strict=True))) >= total
        for signs in itertools.product((1, -1), repeat=6)
    )
    assert exact == 2
    found = paired_tests(a, b, None, resamples=20_000)
    assert found["CIDEr"].p == pytest.approx(2 / 64, abs=0.005)  # four standard deviations
    assert found["CIDEr"].difference == pytest.approx(63 / 6)
    assert found["ROUGE_L"].p == 1.0
    assert found["ROUGE_L"].interval == (0.0, 0.0)


def test_paired_tests_of_equal_systems_are_significant_in_1_of_20():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(300):
        a, b = (synthetic_scores(list(generator.gamma(1.0, 1.0, 40))) for _ in range(2))
        found.append(paired_tests(a, b, None, resamples=200)["CIDEr"].p)
    share = np.mean(np.array(found) <= 0.05)
    assert 0.02 < share < 0.09  # 0.05 with a standard deviation of 0.0126
    assert 0.45 < np.mean(found) < 0.55


def test_paired_tests_resample_the_same_images_for_both():
    """B is A plus 1 for each image, so that the difference is 1 in each resample."""
    values = list(np.random.default_rng(1).gamma(1.0, 1.0, 50))
    found = paired_tests(synthetic_scores(values), synthetic_scores([value + 1 for value in values]), None)
    assert found["CIDEr"].interval == pytest.approx((1.0, 1.0))
    assert found["CIDEr"].p == pytest.approx(1 / 1001)


def test_bootstrap_counts_have_as_many_images_as_the_split():
    counts = _bootstrap_counts(7, 100, 3)
    assert counts.shape == (100, 7)
    assert (counts.sum(1) == 7).all()


def test_paired_tests_on_other_images_are_refused():
    with pytest.raises(ValueError, match="same images"):
        paired_tests(synthetic_scores([1.0]), synthetic_scores([1.0, 2.0]), None)


def test_paired_tests_worse_captions_are_significant(split, measured, meteor):
    references, captions = split
    worse = captions | dict.fromkeys(list(captions)[::8], "a dog")
    found = paired_tests(measured, compute_metrics(references, worse, meteor=meteor), meteor)
    assert found["CIDEr"].difference < 0
    assert found["CIDEr"].p == pytest.approx(1 / 1001)
    assert found["CIDEr"].interval[1] < 0
    assert paired_tests(measured, measured, meteor, 100)["METEOR"].p == 1.0


def test_bootstrap_mean_holds_the_mean():
    low, high = bootstrap_mean(np.array([1.0, 2, 3, 4]))
    assert 1 < low < 2.5 < high < 4
    assert bootstrap_mean(np.array([2.0, 2])) == (2, 2)

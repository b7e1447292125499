"""Intervals and paired tests, against hand-checked values and pycocoevalcap's own code."""

import itertools
import math

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor as CocoMeteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from eval.coco import read_split
from eval.meteor import Meteor
from eval.metrics import CaptionScores, bleu_of, compute_metrics
from eval.significance import _draws, _scores, bootstrap, compare


@pytest.fixture(scope="module")
def meteor():
    with Meteor() as program:
        yield program


@pytest.fixture(scope="module")
def split(flickr8k):
    """1,000 pictures with five references each; scored is the first without its every third word."""
    images = read_split(flickr8k, "val")
    captions = {}
    for image in images:
        words = image.captions[0].split()
        captions[image.id] = " ".join(word for place, word in enumerate(words) if place % 3)
    return {image.id: image.captions for image in images}, captions


@pytest.fixture(scope="module")
def measured(split, meteor):
    return compute_metrics(*split, meteor=meteor)


def test_parity_with_pycocoevalcap_on_a_thousand_images(split, measured):
    references, captions = split
    tokenizer = PTBTokenizer()
    wanted = tokenizer.tokenize({i: [{"caption": text} for text in some] for i, some in references.items()})
    found = tokenizer.tokenize({i: [{"caption": text}] for i, text in captions.items()})
    bleu, _ = Bleu(4).compute_score(wanted, found, verbose=0)
    for n, score in enumerate(bleu, 1):
        assert measured.scores[f"Bleu_{n}"] == pytest.approx(score, abs=1e-9)
    assert bleu_of(measured.bleu.sum(0)) == pytest.approx(bleu, abs=1e-9)
    for name, coco in (("ROUGE_L", Rouge()), ("CIDEr", Cider())):
        score, each = coco.compute_score(wanted, found)
        assert measured.scores[name] == pytest.approx(score, abs=1e-9)
        assert measured.each[name] == pytest.approx(each, abs=1e-9)
    coco = CocoMeteor()
    score, each = coco.compute_score(wanted, found)
    assert measured.scores["METEOR"] == pytest.approx(score, abs=1e-6)
    assert measured.each["METEOR"] == pytest.approx(each, abs=1e-6)


def test_statistics_of_the_whole_split_give_its_scores(measured, meteor):
    whole = _scores([(measured, np.ones((1, len(measured.images))))], meteor)
    for name, score in measured.scores.items():
        # METEOR's statistics are the images' own, summed: 1e-4 off what its program says of them one by one.
        assert whole[name][0] == pytest.approx(score, abs=2e-4 if name == "METEOR" else 1e-9)


def test_intervals(measured, meteor):
    intervals = bootstrap(measured, meteor)
    assert intervals == bootstrap(measured, meteor)
    assert intervals.keys() == measured.scores.keys()
    for name, (low, high) in intervals.items():
        assert low < measured.scores[name] < high
    # CIDEr is a mean: its interval is that of the normal approximation, here to a tenth of its width.
    error = measured.each["CIDEr"].std() / math.sqrt(len(measured.images))
    low, high = intervals["CIDEr"]
    assert low == pytest.approx(measured.scores["CIDEr"] - 1.96 * error, abs=0.4 * error)
    assert high == pytest.approx(measured.scores["CIDEr"] + 1.96 * error, abs=0.4 * error)


def made_up(cider: list[float]) -> CaptionScores:
    """Systems whose CIDEr is given and whose other scores are all alike."""
    count = len(cider)
    bleu = np.tile([3.0, 2, 1, 1, 4, 3, 2, 1, 4, 4], (count, 1))
    each = {"ROUGE_L": np.full(count, 0.5), "CIDEr": np.array(cider)}
    scores = {f"Bleu_{n}": score for n, score in enumerate(bleu_of(bleu.sum(0)), 1)}
    scores |= {"ROUGE_L": 0.5, "CIDEr": float(np.mean(cider))}
    return CaptionScores(list(range(count)), {}, {}, scores, bleu, None, each)


def test_approximate_randomisation_finds_the_exact_p():
    """Six images, differences of 1, 2, 4 …: of 64 equally likely swaps two give as large a sum; p = 2 / 64."""
    a, b = made_up([0.0] * 6), made_up([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    total = 63.0
    exact = sum(
        abs(sum(sign * d for sign, d in zip(signs, b.each["CIDEr"], strict=True))) >= total
        for signs in itertools.product((1, -1), repeat=6)
    )
    assert exact == 2
    found = compare(a, b, None, resamples=20_000)
    assert found["CIDEr"].p == pytest.approx(2 / 64, abs=0.005)  # four standard deviations
    assert found["CIDEr"].difference == pytest.approx(63 / 6)
    assert found["ROUGE_L"].p == 1.0
    assert found["ROUGE_L"].interval == (0.0, 0.0)


def test_systems_that_are_alike_differ_significantly_in_one_case_of_twenty():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(300):
        a, b = (made_up(list(generator.gamma(1.0, 1.0, 40))) for _ in range(2))
        found.append(compare(a, b, None, resamples=200)["CIDEr"].p)
    share = np.mean(np.array(found) <= 0.05)
    assert 0.02 < share < 0.09  # 0.05 with a standard deviation of 0.0126
    assert 0.45 < np.mean(found) < 0.55


def test_the_same_images_are_drawn_for_both():
    """B is A and 1 more for each image: whatever is drawn, the difference is 1."""
    values = list(np.random.default_rng(1).gamma(1.0, 1.0, 50))
    found = compare(made_up(values), made_up([value + 1 for value in values]), None)
    assert found["CIDEr"].interval == pytest.approx((1.0, 1.0))
    assert found["CIDEr"].p == pytest.approx(1 / 1001)


def test_draws_are_of_as_many_images():
    counts = _draws(7, 100, 3)
    assert counts.shape == (100, 7)
    assert (counts.sum(1) == 7).all()


def test_runs_on_other_images_do_not_compare():
    with pytest.raises(ValueError, match="same images"):
        compare(made_up([1.0]), made_up([1.0, 2.0]), None)


def test_worse_captions_are_found_out(split, measured, meteor):
    references, captions = split
    worse = captions | dict.fromkeys(list(captions)[::8], "a dog")
    found = compare(measured, compute_metrics(references, worse, meteor=meteor), meteor)
    assert found["CIDEr"].difference < 0
    assert found["CIDEr"].p == pytest.approx(1 / 1001)
    assert found["CIDEr"].interval[1] < 0
    assert compare(measured, measured, meteor)["METEOR"].p == 1.0

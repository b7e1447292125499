"""A lower output bias for overused words."""

import math
from collections import Counter

import pytest

from eval.data import read_split
from handler.bundle import load_bundle
from handler.captioner import Captioner
from handler.generation import GenerationConfig
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.commands import run_module_in_process
from tests.helpers.paths import ROOT
from training.calibrate import BIAS, calibrate_bundle, overuse


def test_overuse_is_the_log_of_the_smoothed_ratio_where_it_is_positive(monkeypatch):
    monkeypatch.setattr("training.calibrate.SMOOTHING", 0.1)
    model = Counter({"dog": 5, "a": 3, "cat": 2})  # 0.5, 0.3, 0.2
    people = Counter({"dog": 1, "a": 4, "red": 5})  # 0.1, 0.4, 0.5
    # dog: 0.6 / 0.2 = 3; a: 0.4 / 0.5 < 1; cat: 0.3 / 0.1 = 3; the model does not say "red"
    assert overuse(model, people) == pytest.approx({"dog": math.log(3), "a": 0, "cat": math.log(3)})


@pytest.fixture
def bundle(tmp_path):
    return write_tiny_bundle(tmp_path / "bundle", "nic")


def test_calibrate_bundle_lowers_overused_and_named_words_alone(bundle, tmp_path):
    decoding = GenerationConfig(beam_size=2, max_length=5)
    calibrate_bundle(
        bundle,
        tmp_path / "new",
        ROOT / "samples",
        ["photos"],
        strength=0.5,
        images=100,
        lower={"dog": 0.25},
        decoding=decoding,
    )
    (_, before, vocabulary), (config, after, _) = load_bundle(bundle), load_bundle(tmp_path / "new")
    photos = read_split(ROOT / "samples", "photos")
    captions = Captioner.load(bundle).caption([image.path for image in photos], decoding)
    model = Counter(word for [caption] in captions for word in caption.tokens)
    people = Counter(word for image in photos for text in image.captions for word in text.lower().split())
    lowered = overuse(model, people)
    assert max(lowered.values()) > 1  # an untrained model says a few words again and again
    difference = (before[BIAS] - after[BIAS]).tolist()
    expected = [0.5 * lowered.get(word, 0) + 0.25 * (word == "dog") for word in vocabulary.tokens]
    # Punctuation sets some counts of this test apart by one in some hundred words.
    assert difference == pytest.approx(expected, abs=0.05)
    assert all(after[name].equal(tensor) for name, tensor in before.items() if name != BIAS)
    assert config.decoding == decoding
    assert config.card["calibration"] == {
        "of": load_bundle(bundle)[0].digest,
        "splits": ["photos"],
        "images": 100,
        "strength": 0.5,
        "lower": {"dog": 0.25},
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--strength=-1"], 1, "strength must be at least 0, and images at least 1."),
        (["--images=0"], 1, "strength must be at least 0, and images at least 1."),
        (["--lower", "wolf=1"], 1, "The bundle's vocabulary has no word 'wolf'."),
        (["--lower", "wolf"], 2, "'wolf' is not like front=0.7."),
        (["--lower", "dog=much"], 2, "'much' of 'dog=much' is no number."),
        (["--splits", "nowhere"], 1, "There is no split 'nowhere' in samples"),
    ],
)
def test_calibrate_mistake_in_arguments_gives_one_sentence(bundle, tmp_path, arguments, code, message):
    options = ["--data=samples", "--splits", "photos", f"--output={tmp_path / 'new'}"]
    found, _, errors = run_module_in_process("training.calibrate", bundle, *options, *arguments)
    assert (found, errors.count(message)) == (code, 1)
    assert not (tmp_path / "new").exists()


def test_calibrate_command_writes_a_bundle_with_the_decoding_options(bundle, tmp_path):
    output = tmp_path / "new"
    options = ["--data=samples", "--splits", "photos", "--images=3", "--length-penalty=1.2", f"--output={output}"]
    code, printed, _ = run_module_in_process("training.calibrate", bundle, *options)
    assert (code, printed) == (0, f"The bundle is in {output}. Serve it: make serve MODEL={output}\n")
    config = load_bundle(output)[0]
    assert config.decoding.length_penalty == 1.2
    assert config.card["calibration"]["strength"] == 0.3

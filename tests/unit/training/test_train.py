"""Training on the samples: a real run killed half-way and started again ends as one that was left alone."""

import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eval.coco import read_split
from handler import Captioner
from tests.helpers.commands import run_module_in_process
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.training_runs import PHOTO_SPLITS, read_metrics, train_command
from training.config import PRESETS, load_config, preset
from training.train import alone, device_precision, saved_precision
from training.validate import validate_bundle

EPOCHS, CRITICAL = 4, 2
STEPS, CRITICAL_STEPS = 3 * EPOCHS, 2 * CRITICAL  # seven pictures, two a step, then three
SETTINGS = [
    f"--epochs={EPOCHS}", "--decoder.dropout=0.1", "--learning_rate=0.02", "--warmup_steps=5", "--ema=0.5",
    "--finetune_from=blocks.6", "--encoder_learning_rate=0.0002",
    f"--self_critical.epochs={CRITICAL}", "--self_critical.batch_size=3", "--self_critical.cross_entropy=0.2",
]  # fmt: skip


def command(run, *settings):
    return train_command(run, *SETTINGS, *settings)


def train_here(arguments):
    """`run_module_in_process` of such a command."""
    assert arguments[:3] == [sys.executable, "-m", "training.train"]
    return run_module_in_process("training.train", *arguments[3:])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from beginning to end."""
    run = tmp_path_factory.mktemp("training") / "whole"
    done = subprocess.run(command(run), cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run


def start_until(arguments, ready):
    """Starts a training and waits until `ready()`."""
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not ready():
        assert process.poll() is None, "the run ended before it could be stopped: " + process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def assert_same_curve(run, whole):
    assert [line["step"] for line in read_metrics(run)] == [line["step"] for line in read_metrics(whole)]
    for left, right in zip(read_metrics(run), read_metrics(whole), strict=True):
        for name in left.keys() - {"seconds"}:
            assert left[name] == pytest.approx(right[name], abs=1e-4), name


def test_a_run_learns_and_keeps_the_best_of_each_phase(whole):
    losses = [line["loss"] for line in read_metrics(whole) if line["phase"] == "cross_entropy" and "loss" in line]
    rewards = [line["reward"] for line in read_metrics(whole) if "reward" in line]
    validations = [line for line in read_metrics(whole) if "CIDEr" in line]
    assert (len(losses), len(rewards)) == (STEPS, CRITICAL_STEPS)
    assert [line["epoch"] for line in validations] == list(range(1, EPOCHS + CRITICAL + 1))
    assert sum(losses[:3]) / 3 - sum(losses[-3:]) / 3 > 0.5  # nats a token, from the first epoch to the last
    best = {
        phase: max((line for line in validations if line["phase"] == phase), key=lambda line: line["CIDEr"])
        for phase in ("cross_entropy", "self_critical")
    }
    first, second = sorted(best, key=lambda phase: -best[phase]["CIDEr"])
    for folder, phase in (("bundle", first), (f"bundle-{second}", second)):
        card = Captioner.load(whole / folder).config.card
        assert card["training"]["step"] == best[phase]["step"]
        assert card["scores"][0]["scores"]["CIDEr"] == pytest.approx(best[phase]["CIDEr"], abs=0.05)


def test_a_run_is_seen(whole):
    assert (whole / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((whole / "samples").glob("epoch-*.png"))) == EPOCHS + CRITICAL
    board = EventAccumulator(str(whole / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("reward")] == list(range(STEPS + 1, STEPS + CRITICAL_STEPS + 1))
    assert len(board.Scalars("CIDEr")) == EPOCHS + CRITICAL
    assert board.Images("samples")


def test_the_learning_rate_warms_up_and_falls_as_a_cosine_in_each_phase(whole):
    rates = [line["learning_rate"] for line in read_metrics(whole) if "learning_rate" in line]
    assert rates[:5] == pytest.approx([0.004, 0.008, 0.012, 0.016, 0.02])
    # step 8 of 12 lies 3 of 7 past the warm-up: 0.01 * (1 + cos(pi * 3 / 7)) = 0.012225
    assert rates[8] == pytest.approx(0.012225, abs=1e-6)
    assert rates[STEPS - 1] < 0.001
    assert rates[STEPS:] == pytest.approx([1e-5, 2e-5, 3e-5, 4e-5])  # warm-up is as long as this phase


def test_killed_and_started_again_it_ends_as_if_left_alone(whole, tmp_path):
    shutil.copytree(whole.parent / "features", tmp_path / "features")
    run = tmp_path / "killed"
    for epochs in (2, EPOCHS + 1):  # in either phase
        metrics = run / "metrics.jsonl"
        process = start_until(
            command(run),
            lambda: metrics.exists() and metrics.read_text().count("CIDEr") >= epochs,  # noqa: B023
        )
        process.kill()
        process.communicate()
        assert not (run / "bundle").exists()
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 999, "lo')  # the line that a kill cut short
    subprocess.run(command(run), cwd=ROOT, check=True, capture_output=True)
    assert_same_curve(run, whole)
    ours, theirs = Captioner.load(run / "bundle"), Captioner.load(whole / "bundle")
    assert [c[0].text for c in ours.caption(PHOTOS)] == [c[0].text for c in theirs.caption(PHOTOS)]


def test_asked_to_stop_it_finishes_its_step_and_loses_nothing(whole, tmp_path):
    shutil.copytree(whole.parent / "features", tmp_path / "features")
    run = tmp_path / "stopped"
    settings = [
        "--checkpoint_every=1000",
        "--epochs=300",
        "--self_critical.epochs=0",
    ]  # no checkpoint of its own in reach
    metrics = run / "metrics.jsonl"
    process = start_until(command(run, *settings), lambda: metrics.exists() and "CIDEr" in metrics.read_text())
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The same command goes on at the last checkpoint" in message
    stopped = max(line["step"] for line in read_metrics(run))
    assert f"Stopped after step {stopped} of 900." in message
    process = start_until(command(run, *settings), lambda: metrics.read_text().count("\n") > 2 + stopped + stopped // 3)
    process.kill()
    process.communicate()
    steps = [line["step"] for line in read_metrics(run) if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))  # the next step after the one that was finished, none twice


def test_self_critical_training_alone_goes_on_from_a_model(whole, tmp_path):
    """And the mean of two such runs, made and scored by its command."""
    bundles, start = [], whole / "bundle"
    for seed in (1, 2):
        run = tmp_path / str(seed)
        weights = (f"--encoder_weights={start}", f"--decoder_weights={start}")
        code, _, errors = train_here(command(run, "--epochs=0", f"--seed={seed}", *weights))
        assert code == 0, errors
        assert {line["phase"] for line in read_metrics(run)} == {"self_critical"}
        assert [line["step"] for line in read_metrics(run) if "reward" in line] == list(range(1, CRITICAL_STEPS + 1))
        assert [line["epoch"] for line in read_metrics(run) if "CIDEr" in line] == [1, 2]
        bundles.append(run / "bundle")
    mean = tmp_path / "mean"
    code, printed, errors = run_module_in_process(
        "training.average_weights", *bundles, "--data", "samples", "--to", mean
    )
    assert code == 0, errors
    card = Captioner.load(mean).config.card
    assert card["mean_of"] == [Captioner.load(bundle).config.digest for bundle in bundles]
    assert f"CIDEr {card['scores'][0]['scores']['CIDEr']}" in printed


def test_a_disk_that_is_full_costs_nothing_that_was_kept(whole, tmp_path):
    """Files of more than 100 kB can't be written, so that no checkpoint is; then they can."""
    shutil.copytree(whole.parent / "features", tmp_path / "features")
    run = tmp_path / "full"
    done = subprocess.run(
        command(run), cwd=ROOT, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "The same command goes on at the last checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(run.glob("*.partial"))
    subprocess.run(command(run), cwd=ROOT, check=True, capture_output=True)
    assert_same_curve(run, whole)


def test_a_bundle_is_made_from_any_checkpoint(whole, tmp_path):
    program = [sys.executable, "-m", "training.export", str(whole), "samples"]
    subprocess.run([*program, "--to", str(tmp_path / "last")], cwd=ROOT, check=True, capture_output=True)
    assert Captioner.load(tmp_path / "last").config.card["training"]["step"] == STEPS + CRITICAL_STEPS
    code, _, errors = run_module_in_process("training.export", whole, "samples", "--checkpoint=x")
    assert code == 1
    assert errors.endswith("found there: best-cross_entropy, best-self_critical, checkpoint.\n")


def test_validation_and_the_bundle_take_pictures_of_the_serving_size(whole):
    grids = [np.load(path, mmap_mode="r") for path in (whole.parent / "features").glob("*.npy")]
    assert {grid.shape[1] for grid in grids} == {2 * 2, 3 * 3}  # of the training's 64 pixels, and validation's 96
    assert Captioner.load(whole / "bundle").config.preprocessing.size == 96


def test_the_cards_scores_are_the_bundles(whole):
    captioner = Captioner.load(whole / "bundle")
    [written] = captioner.config.card["scores"]
    result, captions = validate_bundle(captioner, read_split(ROOT / "samples", "photos"), "samples/photos")
    assert result == written
    assert written["n"] == len(captions) == 7
    digest = captioner.config.digest[:19]
    signature = (
        "samples/photos|n:7|refs:5|tok:ptb3.4.1|cider-d:idf=refs|meteor:1.5|beam:2|lp:0.7|length:1-20|ngram:0|" + digest
    )
    assert written["signature"] == signature


def test_other_settings_in_the_same_folder_are_refused(whole):
    code, _, errors = train_here(command(whole, "--epochs=9", "--ema=0.6"))
    assert code == 1
    assert errors == f"{whole} was begun with other settings (ema, epochs): name another folder with --into.\n"


def test_two_at_once_in_the_same_folder_are_refused(whole):
    with alone(whole):
        code, _, errors = train_here(command(whole))
    assert code == 1
    assert errors == f"Another process is training in {whole}.\n"


def test_other_data_in_the_same_folder_is_refused(whole, tmp_path):
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    annotations = tmp_path / "samples" / "annotations" / "captions_photos.json"
    arguments = command(whole)
    arguments[arguments.index("samples")] = str(tmp_path / "samples")
    code, _, errors = train_here(arguments)
    assert code == 0, errors  # the same data elsewhere is the same data
    text, cat = annotations.read_text(), tmp_path / "samples" / "photos" / "cat.jpg"
    changes = (
        lambda: annotations.write_text(text.replace("woman", "wombat")),
        lambda: (annotations.write_text(text), cat.write_bytes(cat.with_name("coffee.jpg").read_bytes())),
    )
    for change in changes:
        change()
        code, _, errors = train_here(arguments)
        assert code == 1
        assert "is not the data that" in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "samples", "photos"], "nowhere is no model bundle: captioner.json is missing."),
        (["pretrained", "samples", "val"], "There is no split 'val' in samples"),
        (["pretrained", "samples", "photos", "--beam-size=0"], "beam_size must be at least 1, not 0."),
    ],
)
def test_mistakes_in_scoring_get_one_sentence(arguments, message):
    code, _, errors = run_module_in_process("training.validate", *arguments)
    assert code == 1
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope", "samples"], "There is no preset 'nope': choose one of hard_attention-lite2-flickr8k"),
        (["nic-lite2-flickr8k", "nowhere"], "There is no split 'train' in nowhere"),
        (["nic-lite2-flickr8k", "samples", "--epochs=many"], 'Parser key "epochs"'),
        (["nic-lite2-flickr8k", "samples", "--epochs=-1"], "epochs are at least 0"),
        (["nic-lite2-flickr8k", "samples", "--epochs=0"], "Without epochs of cross-entropy it takes decoder_weights"),
        (["nic-lite2-flickr8k", "samples", "--decoding.beam_size=0"], "beam_size must be at least 1, not 0"),
        (
            ["nic-lite2-flickr8k", "samples", "--decoder.dropout=1"],
            "dropout must be a number from 0 to below 1, not 1.",
        ),
        (["--epochs=3", "nic-lite2-flickr8k", "samples"], "The preset comes first"),
        (
            ["nic-lite2-flickr8k", "samples", "--precision=fp8"],
            "precision is one of auto, bf16-mixed, 32-true, not 'fp8'",
        ),
        (["nic-lite2-flickr8k", "samples", *PHOTO_SPLITS, "--encoder=vgg99"], "'vgg99'"),
        (["nic-lite2-flickr8k", "samples", *PHOTO_SPLITS, "--encoder_weights=x.pth"], "no encoder weights 'x.pth'"),
        (["nic-lite2-flickr8k", "samples", "--self_critical.samples=1"], "samples is at least 2"),
        (["nic-lite2-flickr8k", "samples", "--accelerator=abacus"], "abacus"),
    ],
)
def test_mistakes_get_one_sentence(arguments, message, tmp_path):
    code, _, errors = run_module_in_process("training.train", *arguments, f"--into={tmp_path / 'run'}")
    assert code != 0
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("accelerator", "cuda", "halved", "expected"),
    [
        ("cpu", True, True, "bf16-mixed"),
        ("cpu", True, False, "32-true"),
        ("auto", True, False, "bf16-mixed"),
        ("auto", False, False, "32-true"),
        ("cuda", True, False, "bf16-mixed"),
    ],
)
def test_bfloat16_is_for_devices_that_have_it(monkeypatch, accelerator, cuda, halved, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: cuda)
    monkeypatch.setattr("training.train.cpu_supports_bfloat16", lambda: halved)
    assert device_precision(accelerator) == expected


def test_a_run_goes_on_in_the_precision_that_it_was_begun_in(whole, tmp_path, monkeypatch):
    assert saved_precision(whole) == load_config(whole / "settings.yaml").precision == "32-true"
    assert saved_precision(tmp_path) is None
    monkeypatch.setattr("training.train.cpu_supports_bfloat16", lambda: True)  # as if on another machine
    for precision, told in (("auto", "(ema)"), ("bf16-mixed", "(ema, precision)")):
        code, _, errors = train_here(command(whole, f"--precision={precision}", "--ema=0.6"))
        assert code == 1
        assert f"was begun with other settings {told}" in errors


def test_presets_are_found():
    assert preset("soft_attention-lite2-flickr8k").parent == PRESETS
    with pytest.raises(FileNotFoundError, match="no preset 'x'"):
        preset("x")


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_can_be_read(path):
    config = load_config(path)
    decoder, encoder, *_ = path.stem.split("-")
    assert config.decoder.name == decoder
    assert config.encoder.endswith(encoder)
    assert {"name", "data", "terms", "limits"} <= config.card.keys()

"""A run learns, is logged, and resumes after a kill, a stop or a full disk as if it had never been interrupted."""

import functools
import os
import resource
import shutil
import signal

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eval.data import read_split
from handler import Captioner
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.training_runs import read_metrics
from tests.helpers.trainings import (
    CRITICAL_EPOCHS,
    CRITICAL_STEPS,
    EPOCHS,
    STEPS,
    before_step,
    copy_features,
    fork,
    train_arguments,
    train_in_process,
)
from training import train
from training.checkpoint import load_checkpoint
from training.trainer import CHECKPOINT, Trainer
from training.validate import validate_bundle

pytestmark = pytest.mark.slow


def validations(run):
    return [line for line in read_metrics(run) if "CIDEr" in line]


def assert_same_curve(run, expected):
    assert [line["step"] for line in read_metrics(run)] == [line["step"] for line in read_metrics(expected)]
    for actual_line, expected_line in zip(read_metrics(run), read_metrics(expected), strict=True):
        assert actual_line.keys() == expected_line.keys()
        for name in actual_line.keys() - {"seconds"}:
            value = actual_line[name]  # measures are of captions alone, which are equal
            assert value == (
                pytest.approx(expected_line[name], abs=1e-4) if isinstance(value, float) else expected_line[name]
            ), name


def test_trainer_finished_run_has_learned_in_both_phases(finished_run):
    lines = read_metrics(finished_run)
    losses = [line["loss"] for line in lines if line["phase"] == "cross_entropy" and "loss" in line]
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert (len(losses), len(rewards)) == (STEPS, CRITICAL_STEPS)
    assert [line["epoch"] for line in validations(finished_run)] == list(range(1, EPOCHS + CRITICAL_EPOCHS + 1))
    assert sum(losses[:3]) / 3 - sum(losses[-3:]) / 3 > 0.5  # nats per token, from the first epoch to the last


def test_trainer_finished_run_exports_best_epoch_of_each_phase(finished_run):
    best = {
        phase: max((line for line in validations(finished_run) if line["phase"] == phase), key=lambda x: x["selection"])
        for phase in ("cross_entropy", "self_critical")
    }
    first, second = sorted(best, key=lambda phase: -best[phase]["selection"])
    for bundle, phase in (("bundle", first), (f"bundle-{second}", second)):
        card = Captioner.load(finished_run / bundle).config.card
        assert card["training"]["step"] == best[phase]["step"]
        assert card["scores"][0]["scores"]["CIDEr"] == pytest.approx(best[phase]["CIDEr"], abs=0.05)


def test_trainer_finished_run_is_logged(finished_run):
    assert (finished_run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((finished_run / "samples").glob("epoch-*.png"))) == EPOCHS + CRITICAL_EPOCHS
    board = EventAccumulator(str(finished_run / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("reward")] == list(range(STEPS + 1, STEPS + CRITICAL_STEPS + 1))
    for name in ("CIDEr", "selection", "measures/likeness"):
        assert len(board.Scalars(name)) == EPOCHS + CRITICAL_EPOCHS
    assert board.Images("samples")


def test_trainer_learning_rate_warms_up_and_falls_in_each_phase(finished_run):
    rates = [line["learning_rate"] for line in read_metrics(finished_run) if "learning_rate" in line]
    assert rates[:5] == pytest.approx([0.004, 0.008, 0.012, 0.016, 0.02])
    # Step 9 of 12 is 3 of 7 steps after the warm-up: 0.01 * (1 + cos(pi * 3 / 7)).
    assert rates[8] == pytest.approx(0.012225, abs=1e-6)
    assert rates[STEPS:] == pytest.approx([2e-5, 4e-5])  # the warm-up is as long as this phase


def test_trainer_validation_and_bundle_use_serving_size(finished_run):
    features = [np.load(path, mmap_mode="r") for path in (finished_run.parent / "features").glob("*.npy")]
    assert {part.shape[1] for part in features} == {2 * 2, 3 * 3}  # cells of 64 pixels in training, 96 in validation
    assert Captioner.load(finished_run / "bundle").config.preprocessing.size == 96


def test_trainer_card_scores_equal_those_of_the_bundle(finished_run, shared_meteor):
    captioner = Captioner.load(finished_run / "bundle")
    [written] = captioner.config.card["scores"]
    images = read_split(ROOT / "samples", "photos")
    result, captions = validate_bundle(captioner, images, "samples/photos", meteor=shared_meteor)
    assert result == written
    assert written["n"] == len(captions) == 7
    assert written["signature"].startswith(
        "samples/photos|n:7|refs:5|tok:ptb3.4.1|cider-d:idf=refs|meteor:1.5|beam:2|lp:0.7|length:1-20|ngram:0|"
        + captioner.config.digest[:19]
    )
    assert written["measures"]["likeness"].keys() == {"model", "people"}


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk():
    """Let no file grow beyond 100 kB, less than a checkpoint."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_trainer_killed_in_each_phase_and_disk_full_resumes_identically(finished_run, tmp_path, no_figures):
    run, stderr = copy_features(finished_run, tmp_path), tmp_path / "stderr"

    def train_until(step, action):
        before_step(step, action)
        train.main(train_arguments(run))

    for step, action, code in (
        (2, fill_the_disk, 1),  # the first checkpoint fails
        (4, kill_this_process, -signal.SIGKILL),
        (6, fill_the_disk, 1),  # a later one
        (STEPS + 2, kill_this_process, -signal.SIGKILL),
    ):
        process = fork(functools.partial(train_until, step, action), stderr)
        process.join(120)
        assert process.exitcode == code, stderr.read_text()
        assert not list(run.glob("*.partial"))
        assert not (run / "bundle").exists()
        if action is fill_the_disk:
            message = stderr.read_text()
            assert "File too large" in message
            assert f"Run the same command again to resume from the last checkpoint in {run}." in message
            assert "Traceback" not in message
            if step == 2:
                assert not (run / CHECKPOINT).exists()
            else:
                assert load_checkpoint(run / CHECKPOINT)[1]["step"] == 3  # of the first epoch
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 999, "lo')  # a line that a kill truncated
    assert train_in_process(run) is None
    assert_same_curve(run, finished_run)
    actual, expected = Captioner.load(run / "bundle"), Captioner.load(finished_run / "bundle")
    assert [c[0].text for c in actual.caption(PHOTOS)] == [c[0].text for c in expected.caption(PHOTOS)]


@pytest.mark.parametrize(("minutes", "step"), [(0, 4), (60, 3)], ids=["each step", "each epoch"])
def test_trainer_killed_loses_the_steps_since_the_last_checkpoint(finished_run, tmp_path, no_figures, minutes, step):
    run = copy_features(finished_run, tmp_path)

    def train_until_step_5():
        before_step(5, kill_this_process)
        train.main(train_arguments(run, f"--checkpoint_minutes={minutes}"))

    fork(train_until_step_5, tmp_path / "stderr").join(120)
    assert load_checkpoint(run / CHECKPOINT)[1]["step"] == step


def test_trainer_asked_to_stop_finishes_its_step_and_loses_nothing(finished_run, tmp_path, monkeypatch, no_figures):
    run = copy_features(finished_run, tmp_path)
    settings = ["--epochs=300", "--self_critical.epochs=0"]
    for step in (4, 5):  # in the second epoch, without a regular checkpoint
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_step", Trainer._step)  # to be restored
            before_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
            message = train_in_process(run, *settings)
        assert message == (
            f"Stopped after step {step} of 900. Run the same command again to resume from the last checkpoint in {run}."
        )
        assert load_checkpoint(run / CHECKPOINT)[1]["step"] == step
        assert [line["step"] for line in read_metrics(run) if "loss" in line] == list(range(1, step + 1))


def test_train_with_other_settings_in_the_same_directory_fails(finished_run):
    message = train_in_process(finished_run, "--epochs=9", "--ema_decay=0.6")
    assert message == f"{finished_run} was started with other settings (ema_decay, epochs): use another --output-dir."


def test_train_with_unknown_saved_settings_fails_with_one_sentence(finished_run, tmp_path):
    settings = (finished_run / "settings.yaml").read_text().replace("ema_decay:", "ema:")
    (tmp_path / "settings.yaml").write_text(settings)
    message = train_in_process(tmp_path)
    assert message.startswith(f"{tmp_path / 'settings.yaml'} does not hold the settings of this version: ")
    assert "ema" in message


def test_train_resumed_on_another_machine_keeps_its_precision(finished_run, tmp_path, monkeypatch):
    assert train.saved_precision(finished_run) == "32-true"
    assert train.saved_precision(tmp_path) is None
    monkeypatch.setattr("training.train.cpu_supports_bfloat16", lambda: True)
    for precision, changed in (("auto", "(ema_decay)"), ("bf16-mixed", "(ema_decay, precision)")):
        message = train_in_process(finished_run, f"--precision={precision}", "--ema_decay=0.6")
        assert f"was started with other settings {changed}" in message


def test_train_twice_in_the_same_directory_fails(finished_run, monkeypatch):
    monkeypatch.setattr("training.train.LOCK_TIMEOUT", 0)
    with train.lock_run(finished_run):
        message = train_in_process(finished_run)
    assert message == f"Another process is training in {finished_run}."


def test_train_with_other_data_in_the_same_directory_fails(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "train", lambda _trainer: [])
    data = tmp_path / "samples"
    for name in ("annotations", "photos"):
        shutil.copytree(ROOT / "samples" / name, data / name)
    assert train_in_process(finished_run, data=data) is None  # the same data in another place
    annotations = data / "annotations" / "captions_photos.json"
    text, cat = annotations.read_text(), data / "photos" / "cat.jpg"
    annotations.write_text(text.replace("woman", "wombat"))
    other_captions = train_in_process(finished_run, data=data)
    annotations.write_text(text)
    cat.write_bytes(cat.with_name("coffee.jpg").read_bytes())
    other_image = train_in_process(finished_run, data=data)
    expected = f"{data} is not the data that {finished_run} was started with: use another --output-dir."
    assert other_captions == other_image == expected

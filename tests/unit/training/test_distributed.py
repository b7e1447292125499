"""Several processes, as torchrun starts them: the same curve as one, however they come and go."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.helpers.paths import ROOT
from tests.helpers.training_runs import read_metrics, train_command

SETTINGS = [
    "--batch_size=4",
    "--epochs=6",
    "--self_critical.epochs=0",
    "--decoder.dropout=0",
    "--learning_rate=0.003",
    "--warmup_steps=3",
    "--unfreeze_from=blocks.6",
    "--encoder_learning_rate=0.0001",
    "--ema_decay=0.5",
]
STEPS = 6  # seven pictures, four a step


def distributed(run, *settings, torchrun=()):
    arguments = train_command(run, *SETTINGS, *settings)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", *torchrun]
    return [arguments[0], *launcher, *arguments[1:]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with twice the batch that each of two has."""
    run = tmp_path_factory.mktemp("distributed") / "alone"
    subprocess.run(train_command(run, *SETTINGS), cwd=ROOT, check=True, capture_output=True)
    return run


def new_run(alone, folder):
    shutil.copytree(alone.parent / "features", folder / "features")
    return folder / "run"


def assert_same_curve(run, alone):
    assert len([line for line in read_metrics(run) if "loss" in line]) == STEPS
    for left, right in zip(read_metrics(run), read_metrics(alone), strict=True):
        assert left.keys() == right.keys()
        assert left["phase"] == right["phase"]
        for name in left.keys() - {"seconds", "phase"}:
            assert left[name] == pytest.approx(right[name], rel=2e-3, abs=2e-4), (name, right["step"])


def test_two_processes_are_as_one_with_twice_the_batch(alone, tmp_path):
    run = new_run(alone, tmp_path)
    done = subprocess.run(distributed(run), cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_curve(run, alone)
    assert (run / "bundle" / "captioner.json").exists()


def test_a_process_that_dies_takes_the_run_back_to_its_checkpoint(alone, tmp_path):
    """torchrun starts both anew, and they go on there."""
    run = new_run(alone, tmp_path)
    launcher = subprocess.Popen(
        distributed(run, torchrun=["--max-restarts=1"]),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},  # pytorch/pytorch#135712
    )
    victim = wait_for_steps(launcher, run, 3)[1]
    victim.kill()
    assert launcher.wait(timeout=300) == 0
    assert_same_curve(run, alone)


def test_a_run_goes_on_with_another_number_of_processes(alone, tmp_path):
    run = new_run(alone, tmp_path)
    launcher = subprocess.Popen(distributed(run), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_steps(launcher, run, 2)
    launcher.send_signal(signal.SIGTERM)  # torchrun passes it on
    assert launcher.wait(timeout=300) != 0
    assert max(line["step"] for line in read_metrics(run)) < STEPS
    subprocess.run(train_command(run, *SETTINGS), cwd=ROOT, check=True, capture_output=True)
    assert_same_curve(run, alone)


def wait_for_steps(launcher, run, steps):
    """The training processes, once the log has so many steps."""
    deadline = time.monotonic() + 200
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count('"loss"') >= steps):
        assert launcher.poll() is None, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [
        child
        for child in psutil.Process(launcher.pid).children()
        if child.cmdline()[:1] == [sys.executable] and "training.train" in child.cmdline()
    ]


def test_self_critical_steps_stay_in_step(alone, tmp_path):
    run = new_run(alone, tmp_path)
    settings = [
        "--epochs=2",
        "--self_critical.epochs=2",
        "--self_critical.cross_entropy=0.2",
        "--self_critical.batch_size=4",
    ]
    done = subprocess.run(
        distributed(run, *settings), cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rewards = [line for line in read_metrics(run) if "reward" in line]
    assert [line["step"] for line in rewards] == [3, 4]
    assert all(line["loss"] > 0 and line["words"] > 0 for line in rewards)

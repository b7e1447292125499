"""Several processes, as torchrun starts them, give the same curve as one process, also if they die or change."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.helpers.paths import ROOT
from tests.helpers.polling import eventually
from tests.helpers.training_runs import read_metrics, train_command
from tests.helpers.trainings import copy_features, fork, without_bundles, without_figures
from training import train
from training.checkpoint import load_checkpoint
from training.trainer import CHECKPOINT

pytestmark = pytest.mark.slow

SETTINGS = [
    *("--batch_size=4", "--epochs=6", "--self_critical.epochs=0", "--learning_rate=0.003", "--warmup_steps=3"),
    *("--decoder.dropout=0", "--ema_decay=0.5", "--unfreeze_from=blocks.6", "--encoder_learning_rate=0.0001"),
]
STEPS = 6  # of seven images, four per step


def arguments_of(run, *settings):
    arguments = train_command(run, *SETTINGS, *settings)[3:]
    arguments[1] = str(ROOT / "samples")
    return arguments


def fork_ranks(run, directory, *settings):
    """Train in two forked processes with the environment that torchrun sets; return what they wrote to stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def train_rank(rank):
        os.environ.update(
            {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
            | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"}
        )
        train.main(arguments_of(run, *settings))

    stderr = [directory / f"stderr-{rank}" for rank in range(2)]
    processes = [fork(lambda rank=rank: train_rank(rank), stderr[rank]) for rank in range(2)]
    for process, file in zip(processes, stderr, strict=True):
        process.join(240)
        assert process.exitcode == 0, file.read_text()


@pytest.fixture(scope="module")
def single_run(tmp_path_factory) -> Path:
    """A run of one process with twice the batch that each of two processes has."""
    run = tmp_path_factory.mktemp("distributed") / "single"
    with without_figures(), without_bundles():
        train.main(arguments_of(run))
    return run


def assert_same_curve(run, single_run):
    assert len([line for line in read_metrics(run) if "loss" in line]) == STEPS
    for actual, expected in zip(read_metrics(run), read_metrics(single_run), strict=True):
        assert actual.keys() == expected.keys()
        assert actual["phase"] == expected["phase"]
        actual_values, expected_values = (dict(flatten(line)) for line in (actual, expected))
        assert actual_values.keys() == expected_values.keys()
        for name in actual_values.keys() - {"seconds", "phase"}:
            value, step = expected_values[name], (name, expected["step"])
            assert actual_values[name] == (
                value if isinstance(value, str) else pytest.approx(value, rel=2e-3, abs=2e-4)
            ), step


def flatten(value, name=""):
    """Yield the numbers and texts inside of nested lists and dictionaries, by their path."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flatten(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def test_two_processes_give_the_curve_of_one_with_twice_the_batch(single_run, tmp_path, shared_meteor, no_figures):
    run = copy_features(single_run, tmp_path)
    fork_ranks(run, tmp_path)
    assert_same_curve(run, single_run)
    assert (run / "bundle" / "captioner.json").exists()


def test_two_processes_self_critical_steps_stay_in_step(single_run, tmp_path, shared_meteor, no_figures):
    run = copy_features(single_run, tmp_path)
    critical = ["--self_critical.epochs=2", "--self_critical.cross_entropy=0.2", "--self_critical.batch_size=4"]
    fork_ranks(run, tmp_path, "--epochs=1", *critical, "--self_critical.overuse=0.2")
    rewards = [line for line in read_metrics(run) if "reward" in line]
    assert [line["step"] for line in rewards] == [2, 3]
    assert all(line["loss"] > 0 and line["words"] > 0 for line in rewards)
    # The checkpoint counts the greedy captions of both processes, four a step. A caption has at most 20 tokens and
    # `<end>`, so 19 trigrams: those of one process are 2 · 2 · 19 at most. Untrained, captions rarely end.
    window = load_checkpoint(run / CHECKPOINT)[0]["self_critical"]["overuse.0"]
    assert len(window) > 2 * 2 * 19


def test_torchrun_process_dies_and_run_resumes_with_another_number_of_processes(single_run, tmp_path, no_figures):
    """Torchrun restarts both processes at the checkpoint; after a stop, one process continues."""
    run = copy_features(single_run, tmp_path)
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "--max-restarts=1"]
    launcher = subprocess.Popen(
        [sys.executable, *torchrun, "-m", "training.train", *arguments_of(run)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},  # pytorch/pytorch#135712
    )
    try:
        wait_for_steps(launcher, run, 1)
        ranks_of(launcher)[1].kill()
        wait_for_steps(launcher, run, 3)
        launcher.send_signal(signal.SIGTERM)  # torchrun forwards it
        assert launcher.wait(timeout=120) != 0
    finally:
        launcher.kill()
    assert 3 <= max(line["step"] for line in read_metrics(run)) < STEPS
    with without_bundles():
        train.main(arguments_of(run))
    assert_same_curve(run, single_run)


def ranks_of(launcher):
    """Return the training processes that torchrun started."""
    children = psutil.Process(launcher.pid).children()
    return [child for child in children if "training.train" in child.cmdline()]


def wait_for_steps(launcher, run, steps):
    """Wait until the log has this number of steps."""
    metrics = run / "metrics.jsonl"

    def logged():
        assert launcher.poll() is None, "torchrun ended too early"
        return metrics.exists() and metrics.read_text().count('"loss"') >= steps

    eventually(logged, 200)

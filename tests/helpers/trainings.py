"""Trainings in this process or a forked one, and METEOR shared by all tests.

A forked process starts in milliseconds, while a new one needs ten seconds to import PyTorch.
"""

import multiprocessing
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from eval.meteor import Meteor
from tests.helpers.paths import ROOT
from tests.helpers.training_runs import train_command
from training import train
from training.trainer import Trainer

EPOCHS, CRITICAL_EPOCHS = 4, 1
STEPS, CRITICAL_STEPS = 3 * EPOCHS, 2 * CRITICAL_EPOCHS  # of seven images: batches of two, then of three
RUN_SETTINGS = [
    *(f"--epochs={EPOCHS}", "--learning_rate=0.02", "--warmup_steps=5"),
    *("--decoder.dropout=0.1", "--ema_decay=0.5", "--unfreeze_from=blocks.6", "--encoder_learning_rate=0.0002"),
    *(f"--self_critical.epochs={CRITICAL_EPOCHS}", "--self_critical.batch_size=3", "--self_critical.cross_entropy=0.2"),
    *("--self_critical.overuse=0.5", "--self_critical.repetition=0.5", "--self_critical.length=0.5"),
]


def train_arguments(run: Path, *settings: str, data: Path = ROOT / "samples") -> list[str]:
    """Arguments of `training.train.main` for a small training on the sample photos."""
    arguments = train_command(run, *RUN_SETTINGS, *settings)[3:]
    arguments[1] = str(data)
    return arguments


def train_in_process(run: Path, *settings: str, data: Path = ROOT / "samples") -> str | None:
    """Train in this process; return the message that the command ends with, None if it succeeds."""
    try:
        train.main(train_arguments(run, *settings, data=data))
    except SystemExit as error:
        return str(error.code)
    return None


@contextmanager
def without_figures() -> Iterator[None]:
    """Draw no figures in this process and those that it forks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.run_logger.draw_samples", lambda *_: np.zeros((1, 1, 3), np.uint8))
        patch.setattr("training.run_logger.draw_curve", lambda *_: None)
        yield


@contextmanager
def without_bundles() -> Iterator[None]:
    """Export no bundles in this process, which would start METEOR."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_export_bundles", lambda _trainer: [])
        patch.setattr(Trainer, "_check_metrics", lambda _trainer: None)
        yield


def copy_features(run: Path, directory: Path) -> Path:
    """Copy the feature cache beside a run, and return the path of another run beside the copy."""
    shutil.copytree(run.parent / "features", directory / "features")
    return directory / "run"


def fork(function: Callable[[], None], stderr: Path) -> multiprocessing.Process:
    """Start a function in a forked process, its standard error in a file."""

    def target() -> None:
        with stderr.open("w", buffering=1) as file, redirect_stderr(file):
            try:
                function()
            except SystemExit as error:
                file.write(f"{error.code}\n")
                os._exit(1)
            except BaseException:
                traceback.print_exc(file=file)
                os._exit(70)
            finally:
                sys.stdout.flush()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    return process


def before_step(number: int, action: Callable[[], None]) -> None:
    """Patch the trainer of this process to run an action before a step, counted from 1."""
    step = Trainer._step

    def patched(trainer, phase, step_in_phase, batch):
        if phase.first_step + step_in_phase + 1 == number:
            action()
        return step(trainer, phase, step_in_phase, batch)

    Trainer._step = patched


class SharedMeteor(Meteor):
    """A METEOR process that stays for all tests, as starting one takes five to ten seconds."""

    _started: ClassVar[list["SharedMeteor"]] = []

    def __new__(cls):
        return cls._started[0] if cls._started else super().__new__(cls)

    def __init__(self):
        if not self._started:
            super().__init__()
            self._started.append(self)

    def __exit__(self, *_):
        pass

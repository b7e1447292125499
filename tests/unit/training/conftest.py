"""Fixtures of the training tests: a finished run, and one METEOR process for all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from eval.meteor import Meteor
from tests.unit.training.runs import SharedMeteor, train_in_process, without_figures


@pytest.fixture(scope="session")
def shared_meteor() -> Iterator[Meteor]:
    """Let all code of this process use the same METEOR."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("eval.metrics", "training.trainer"):
            patch.setattr(f"{module}.Meteor", SharedMeteor)
        yield SharedMeteor()


@pytest.fixture
def no_figures():
    """Skip the figures of each epoch, which take longer than its steps; forked processes skip them too."""
    with without_figures():
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, shared_meteor) -> Path:
    """An uninterrupted run of both phases."""
    run = tmp_path_factory.mktemp("training") / "finished"
    assert train_in_process(run) is None
    return run

"""A finished training run, and trainings without figures."""

from pathlib import Path

import pytest

from tests.helpers.trainings import train_in_process, without_figures


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

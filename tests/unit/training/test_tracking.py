"""Trackers, without a network."""

import sys

import pytest

from training.tracking import build_tracker


def test_build_tracker_none_tracks_nothing(tmp_path):
    assert build_tracker("none", tmp_path, {}) is None


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_build_tracker_missing_package_says_what_to_install(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"{name} needs {package}\. Install it: \.venv/bin/pip install {package}"
    with pytest.raises(ModuleNotFoundError, match=message):
        build_tracker(name, tmp_path, {})


@pytest.mark.slow
def test_mlflow_tracker_writes_beside_the_run_and_resumes(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "mine"
    run.mkdir()
    for step, loss in ((1, 4.5), (2, 3.25)):  # the second start goes on in the same run
        tracker = build_tracker("mlflow", run, {"seed": 1})
        tracker.log(step, {"loss": loss})
        tracker.close()
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    [tracked] = client.search_runs([client.get_experiment_by_name("captioner").experiment_id])
    assert (tracked.info.run_name, tracked.data.params) == ("mine", {"seed": "1"})
    history = client.get_metric_history(tracked.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(1, 4.5), (2, 3.25)]


@pytest.mark.slow
def test_wandb_tracker_offline_writes_below_the_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = build_tracker("wandb", tmp_path, {"seed": 1})
    tracker.log(1, {"loss": 4.5})
    tracker.close()
    [recorded] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert recorded.stat().st_size > 0

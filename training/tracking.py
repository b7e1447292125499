"""Trackers of experiments beside TensorBoard: Weights & Biases and MLflow, chosen by the setting `tracker`.

Both are optional. Without a network, set WANDB_MODE=offline; MLflow writes to `mlruns/` beside the run unless
MLFLOW_TRACKING_URI names a server.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

TRACKERS = ("none", "wandb", "mlflow")
PROJECT = "captioner"


class Tracker(Protocol):
    """Receives the numbers of a run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step."""

    def close(self) -> None:
        """Finish the run."""


class WandbTracker:
    """A run of Weights & Biases; a resumed training goes on in the same run.

    Args:
        run: Directory of the run, whose name the tracked run gets.
        settings: Training settings.
    """

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        import wandb  # optional

        identity = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:12]
        self._run = wandb.init(
            project=PROJECT, name=run.name, id=identity, resume="allow", dir=run, config=dict(settings)
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MlflowTracker:
    """A run of MLflow; a resumed training goes on in the same run.

    Args:
        run: Directory of the run, whose name the tracked run gets.
        settings: Training settings.
    """

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        import mlflow  # optional

        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # the small package has no database
            mlflow.set_tracking_uri((run.parent / "mlruns").resolve().as_uri())
        self._client = mlflow.MlflowClient()
        known = run / "mlflow-run"
        if known.exists():
            self._run = known.read_text()
            return
        experiment = self._client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        self._run = self._client.create_run(number, run_name=run.name).info.run_id
        for name, value in settings.items():
            self._client.log_param(self._run, name, str(value)[:500])
        known.write_text(self._run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._client.set_terminated(self._run)


def build_tracker(name: str, run: Path, settings: Mapping[str, Any]) -> Tracker | None:
    """Create the tracker of a run, or None for `none`.

    Raises:
        ModuleNotFoundError: If its package is not installed; the message has the command that installs it.
    """
    trackers: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker}
    if name == "none":
        return None
    try:
        return trackers[name](run, settings)
    except ImportError as error:
        package = {"wandb": "wandb", "mlflow": "mlflow-skinny"}[name]
        message = f"The tracker {name} needs {package}. Install it: .venv/bin/pip install {package}."
        raise ModuleNotFoundError(message) from error

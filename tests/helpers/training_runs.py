"""Trainings of a small model on the sample photos."""

import json
import sys
from pathlib import Path

PHOTO_SPLITS = ["--train_splits=[photos]", "--val_splits=[photos]"]
SMALL = [
    *("--min_count=1", "--batch_size=2", "--preprocessing.size=64", "--serving_size=96", "--num_cached_views=2"),
    *("--decoder.embed_dim=32", "--decoder.hidden_dim=32", "--decoder.attention_dim=8", "--label_smoothing=0"),
    *("--decoding.beam_size=2", "--precision=32-true", "--accelerator=cpu"),
]


def train_command(run: Path, *settings: str) -> list[str]:
    """Return the command of a training; the feature cache is a directory beside the run."""
    directories = [f"--output-dir={run}", f"--feature-cache={run.parent / 'features'}"]
    preset = ["soft_attention-lite2-flickr8k", "samples"]
    return [sys.executable, "-m", "training.train", *preset, *directories, *PHOTO_SPLITS, *SMALL, *settings]


def read_metrics(run: Path) -> list[dict]:
    """Return the entries of the metrics log of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

"""Train a captioner from a preset; options override its settings. Run the same command again to resume.

python -m training.train soft_attention-lite2-flickr8k ../shared/data/flickr8k
python -m training.train nic-lite2-flickr8k ../shared/data/flickr8k --epochs 3 --decoder.dropout 0.3
torchrun --nproc_per_node 2 -m training.train transformer-lite2-flickr8k ../shared/data/flickr8k
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from eval.java import JavaError
from handler.backends.engine import cpu_supports_bfloat16
from handler.cli import cli_errors
from handler.files import LockedError, atomic_write_text, exclusive_lock
from training.builder import build_trainer
from training.config import (
    TrainingConfig,
    add_config_arguments,
    config_from_args,
    load_config,
    preset_path,
    read_preset,
)
from training.trainer import TrainingInterrupted

MUTABLE_SETTINGS = ("workers", "checkpoint_minutes", "tracker", "card")  # may change when a run resumes
LOCK_TIMEOUT = 8.0  # seconds; the workers of a killed training hold the lock for 5 more


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line; default: that of the process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser, names = _build_parser()
    if arguments and not arguments[0].startswith(("-h", "--h")):
        try:
            preset = read_preset(preset_path(arguments[0]))
        except FileNotFoundError as error:
            sys.exit(f"{error} The preset comes first, then the data, then options.")
        arguments = [f"--settings={yaml.safe_dump(preset)}", *arguments]
    args = parser.parse_args(arguments)
    run = args.output_dir or Path("runs") / args.preset
    advice = f"Run the same command again to resume from the last checkpoint in {run}."
    with cli_errors(ModuleNotFoundError, ValueError):
        config = config_from_args(parser, args, names)
        if config.precision == "auto":
            config = replace(config, precision=saved_precision(run) or device_precision(args.accelerator))
        fabric = create_fabric(args.accelerator, config.precision)
        run.mkdir(parents=True, exist_ok=True)
        with lock_run(run) if fabric.is_global_zero else nullcontext():
            if fabric.is_global_zero:
                check_config(run, config)
            trainer = build_trainer(config, args.data, run, args.feature_cache, fabric)
            if fabric.is_global_zero:
                save_config(run, config)  # not before: a start that failed leaves the directory free
            trainer.resume()
            with cli_errors(JavaError, TrainingInterrupted, advice=advice):
                bundles = trainer.train()
    if bundles:
        print(f"The bundle is in {bundles[0]}. Serve it: make serve MODEL={bundles[0]}")


def _build_parser() -> tuple[ArgumentParser, list[str]]:
    """Return the parser, and the names of its arguments that are settings."""
    parser = ArgumentParser(
        prog="python -m training.train", description="Train a captioner from a preset.", allow_abbrev=False
    )
    parser.add_argument("preset", help="name of a file in training/configs, without its suffix")
    parser.add_argument(
        "data", type=Path, help="directory of the data, in the COCO layout or another one: docs/datasets.md"
    )
    parser.add_argument("--output-dir", type=Path, help="directory of the run; default: runs/<preset>")
    parser.add_argument("--feature-cache", type=Path, default=Path("runs/features"), help="directory of the features")
    parser.add_argument("--accelerator", default="auto", help="cpu, cuda or mps; default: the best available")
    parser.add_argument("--settings", action="config", help="file of settings that override the preset")
    names = add_config_arguments(parser)
    return parser, names


def create_fabric(accelerator: str, precision: str) -> Fabric:
    """Launch Fabric on one device, or on the processes that torchrun started."""
    processes, machines = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("GROUP_WORLD_SIZE", 1))
    distributed = int(os.environ.get("WORLD_SIZE", 1)) > 1
    fabric = Fabric(
        accelerator=accelerator,
        devices=processes,
        num_nodes=machines,
        strategy=DDPStrategy(forward_sync_buffers=False, timeout=timedelta(days=2)) if distributed else "auto",
        precision=cast(Any, precision),  # a Literal there
    )
    fabric.launch()
    return fabric


def saved_precision(run: Path) -> str | None:
    """Return the precision that a run was started with, or None if it has not started.

    Raises:
        ValueError: If its settings cannot be read.
    """
    settings = run / "settings.yaml"
    return load_config(settings).precision if settings.exists() else None


def device_precision(accelerator: str) -> str:
    """Return the fastest precision of a device: mixed with bfloat16 if it supports that."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if cpu_supports_bfloat16() else "32-true"


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Hold the lock of a run directory, so that one training at a time writes there.

    Raises:
        ValueError: If another process holds it.
    """
    try:
        with exclusive_lock(run / ".lock", LOCK_TIMEOUT):
            yield
    except LockedError as error:
        raise ValueError(f"Another process is training in {run}.") from error


def check_config(run: Path, config: TrainingConfig) -> None:
    """Check that a run resumes with the settings that it was started with.

    Raises:
        ValueError: If they differ; the message lists them.
    """
    path, settings = run / "settings.yaml", asdict(config)
    if not path.exists():
        return
    saved = asdict(load_config(path))
    if changed := sorted(n for n in saved if saved[n] != settings[n] and n not in MUTABLE_SETTINGS):
        raise ValueError(f"{run} was started with other settings ({', '.join(changed)}): use another --output-dir.")


def save_config(run: Path, config: TrainingConfig) -> None:
    """Write the settings of a run to `settings.yaml`."""
    text = yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
    atomic_write_text(run / "settings.yaml", text)


if __name__ == "__main__":
    main()

"""Trains a captioner from a preset, any of its settings overridden; the same command again goes on where it stopped.

python -m training.train soft_attention-lite2-flickr8k ../shared/data/flickr8k
python -m training.train nic-lite2-flickr8k ../shared/data/flickr8k --epochs 3 --decoder.hidden_dim 256
torchrun --nproc_per_node 2 -m training.train transformer-lite2-flickr8k ../shared/data/flickr8k
"""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from eval.meteor import MeteorError
from handler.backends.engine import cpu_supports_bfloat16
from handler.errors import BundleError
from handler.files import atomic_write_text
from training.config import TrainingConfig, add_config_arguments, config_from_args, load_config, preset
from training.trainer import Trainer, TrainingInterrupted

INDIFFERENT = ("workers", "checkpoint_every", "card")  # may change from one start of a run to the next
WAIT = 8  # s, for the lock: when a training is killed, its workers notice after 5


def main() -> None:
    parser = ArgumentParser(
        description="Trains a captioner from a preset; run again, it goes on where it stopped.", allow_abbrev=False
    )
    parser.add_argument("preset", help="a file of training/configs, without its ending")
    parser.add_argument("data", type=Path, help="the folder in COCO's layout")
    parser.add_argument("--into", type=Path, help="the run's folder (default: runs/<preset>)")
    parser.add_argument("--features", type=Path, default=Path("runs/features"), help="where encoders' grids are kept")
    parser.add_argument("--accelerator", default="auto", help="cpu, cuda, mps; left out, the best there is")
    parser.add_argument("--settings", action="config", help="a file of settings over the preset's")
    names = add_config_arguments(parser)
    if sys.argv[1:] and not sys.argv[1].startswith(("-h", "--h")):
        try:
            parser.default_config_files = [str(preset(sys.argv[1]))]
        except FileNotFoundError as error:
            sys.exit(f"{error} The preset comes first, then the data, then options.")
    arguments = parser.parse_args()
    run = arguments.into or Path("runs") / arguments.preset
    try:
        config = config_from_args(parser, arguments, names)
        if config.precision == "auto":
            config = replace(config, precision=saved_precision(run) or device_precision(arguments.accelerator))
        fabric = launch(arguments.accelerator, config.precision)
        run.mkdir(parents=True, exist_ok=True)
        with alone(run) if fabric.is_global_zero else nullcontext():
            if fabric.is_global_zero:
                keep_settings(run, config)
            bundles = Trainer(config, arguments.data, run, arguments.features, fabric).train()
    except (BundleError, FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        sys.exit(str(error))
    except (OSError, MeteorError) as error:
        sys.exit(f"{error} The same command goes on at the last checkpoint, where there is one, in {run}.")
    except (TrainingInterrupted, KeyboardInterrupt) as stopped:
        sys.exit(f"{stopped or 'Stopped.'} The same command goes on at the last checkpoint in {run}.")
    if bundles:
        print(
            f"The bundle is in {bundles[0]}, the curve in {run / 'curve.png'}. Serve it: make serve MODEL={bundles[0]}"
        )


def launch(accelerator: str, precision: str) -> Fabric:
    """Fabric on one device, or, under torchrun, on as many as it has started processes for."""
    processes, machines = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("GROUP_WORLD_SIZE", 1))
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    fabric = Fabric(
        accelerator=accelerator,
        devices=processes,
        num_nodes=machines,
        strategy=DDPStrategy(forward_sync_buffers=False, timeout=timedelta(days=2)) if several else "auto",
        precision=precision,
    )
    fabric.launch()
    return fabric


def saved_precision(run: Path) -> str | None:
    """The precision that a run was begun in; None where it was not begun.

    Raises:
        ValueError: its settings can't be read.
    """
    settings = run / "settings.yaml"
    return load_config(settings).precision if settings.exists() else None


def device_precision(accelerator: str) -> str:
    """The precision that a device computes fastest in: mixed with bfloat16 where it has that."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if cpu_supports_bfloat16() else "32-true"


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Lets one training at a time work in a folder.

    Raises:
        ValueError: another one does.
    """
    with (run / ".lock").open("w") as lock:
        for attempt in range(WAIT + 1):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if attempt == WAIT:
                    raise ValueError(f"Another process is training in {run}.") from error
                time.sleep(1)
        yield


def keep_settings(run: Path, config: TrainingConfig) -> None:
    """Writes `settings.yaml`; a run goes on with the settings it was begun with.

    Raises:
        ValueError: they differ; the message names where.
    """
    path, now = run / "settings.yaml", asdict(config)
    text = yaml.safe_dump(now, sort_keys=False, allow_unicode=True)
    if path.exists():
        before = asdict(load_config(path))
        if differs := sorted(name for name in before if before[name] != now[name] and name not in INDIFFERENT):
            raise ValueError(
                f"{run} was begun with other settings ({', '.join(differs)}): name another folder with --into."
            )
    atomic_write_text(path, text)


if __name__ == "__main__":
    main()

"""Trains a captioner from a preset, any of its settings overridden; the same command again goes on where it stopped.

python -m training.train soft_attention-lite2-flickr8k ../shared/data/flickr8k
python -m training.train nic-lite2-flickr8k ../shared/data/flickr8k --epochs 3 --decoder.hidden_size 256
"""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from handler.bundle import write_whole
from training.config import TrainingConfig, preset
from training.trainer import Trainer


def main() -> None:
    parser = ArgumentParser(
        description="Trains a captioner from a preset; run again, it goes on where it stopped.", allow_abbrev=False
    )
    parser.add_argument("preset", help="a file of training/configs, without its ending")
    parser.add_argument("data", type=Path, help="the folder in COCO's layout")
    parser.add_argument("--run", type=Path, help="the run's folder (default: runs/<preset>)")
    parser.add_argument("--features", type=Path, default=Path("runs/features"), help="where encoders' grids are kept")
    parser.add_argument("--settings", action="config", help="a file of settings over the preset's")
    settings = parser.add_class_arguments(TrainingConfig, nested_key=None, as_group=True)
    if sys.argv[1:] and not sys.argv[1].startswith(("-h", "--h")):
        try:
            parser.default_config_files = [str(preset(sys.argv[1]))]
        except FileNotFoundError as error:
            sys.exit(f"{error} The preset comes first, then the data, then options.")
    arguments = parser.parse_args()
    run = arguments.run or Path("runs") / arguments.preset
    kept = run / "settings.yaml"
    try:
        values = parser.instantiate(arguments)
        config = TrainingConfig(**{name: getattr(values, name) for name in settings})
        text = yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
        if kept.exists():
            check_same_settings(run, yaml.safe_load(kept.read_text(encoding="utf-8")), yaml.safe_load(text))
        trainer = Trainer(config, arguments.data, run, arguments.features)
        run.mkdir(parents=True, exist_ok=True)
        with alone(run):
            write_whole(kept, text)
            bundle = trainer.train()
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(f"Stopped. The same command goes on at the last checkpoint in {run}.")
    print(f"The bundle is in {bundle}, the curve in {run / 'curve.png'}. Serve it: make serve MODEL={bundle}")


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Lets one process at a time train in a folder.

    Raises:
        ValueError: another one does.
    """
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"Another process is training in {run}.") from error
        yield


def check_same_settings(run: Path, before: dict, now: dict) -> None:
    """A run goes on with the settings it was begun with.

    Raises:
        ValueError: they differ; the message names where.
    """
    if differs := sorted(name for name in before | now if before.get(name) != now.get(name)):
        raise ValueError(f"{run} was begun with other settings ({', '.join(differs)}): name another folder with --run.")


if __name__ == "__main__":
    main()

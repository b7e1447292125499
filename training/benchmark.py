"""Measures how many images a training learns from a second, by batch size and number of processes, side by side.

python -m training.benchmark transformer-lite2-flickr8k ../shared/data/flickr8k --batch-sizes 16 32 64 --processes 1 2
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

WARM = 5  # steps that are not counted
DEADLINE = 3600.0  # s, grids that have to be computed first included


def measure(command: list[str], run: Path, steps: int) -> list[float]:
    """Starts a training, and stops it after `steps` counted steps; the seconds of each, waiting for its batch included.

    Raises:
        RuntimeError: the training ended before that; the message is its own.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // _processes(command)))}
    with (run.parent / "stderr").open("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        try:
            deadline = time.monotonic() + DEADLINE
            while len(seconds := _seconds(run)) < WARM + steps:
                if process.poll() is not None or time.monotonic() > deadline:
                    errors.seek(0)
                    raise RuntimeError(f"The training ended before {WARM + steps} steps: {errors.read()[-500:]}")
                time.sleep(0.5)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    return seconds[WARM : WARM + steps]


def _processes(command: list[str]) -> int:
    return next((int(word.rsplit("=", 1)[1]) for word in command if word.startswith("--nproc_per_node=")), 1)


def _seconds(run: Path) -> list[float]:
    """Each step's seconds, as far as the log is written."""
    log = run / "metrics.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [line["seconds"] for line in map(json.loads, lines) if "epoch" not in line]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures training's images a second.")
    parser.add_argument("preset", help="a file of training/configs, without its ending")
    parser.add_argument("data", help="the folder in COCO's layout")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64], help="images a step")
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="of torchrun, on this machine")
    parser.add_argument("--steps", type=int, default=20, help="that are counted")
    arguments, settings = parser.parse_known_args()
    print("| processes | images a step | seconds a step | images a second |\n|---|---|---|---|", flush=True)
    for processes, size in itertools.product(arguments.processes, arguments.batch_sizes):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            launcher = (
                []
                if processes == 1
                else ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
            )
            command = [
                sys.executable,
                "-m",
                *launcher,
                "training.train",
                arguments.preset,
                arguments.data,
                f"--into={run}",
            ]
            try:
                taken = measure(
                    [*command, f"--batch_size={size}", "--checkpoint_every=5", *settings], run, arguments.steps
                )
            except RuntimeError as error:
                sys.exit(str(error))
            seconds = median(taken)
            print(f"| {processes} | {size} | {seconds:.2f} | {size / seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()

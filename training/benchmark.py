"""Measure training throughput by batch size and number of processes, in images per second.

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
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from handler.cli import cli_errors

WARMUP_STEPS = 5  # not counted
TIMEOUT = 3600.0  # seconds, including the computation of cached features


def measure_steps(command: Sequence[str], run: Path, steps: int, processes: int) -> list[float]:
    """Run a training until `steps` counted steps are logged, then stop it.

    Args:
        command: Command of the training.
        run: Directory of the run, in a temporary directory.
        steps: Steps to count, after the warm-up.
        processes: Processes that share the CPUs.

    Returns:
        Seconds of each counted step, including the wait for its batch.

    Raises:
        RuntimeError: If the training ends early; the message has the end of its output.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    with (run.parent / "stderr").open("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        try:
            deadline = time.monotonic() + TIMEOUT
            while len(seconds := _logged_seconds(run)) < WARMUP_STEPS + steps:
                if process.poll() is not None or time.monotonic() > deadline:
                    errors.seek(0)
                    raise RuntimeError(f"The training ended before step {WARMUP_STEPS + steps}: {errors.read()[-500:]}")
                time.sleep(0.5)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    return seconds[WARMUP_STEPS : WARMUP_STEPS + steps]


def _logged_seconds(run: Path) -> list[float]:
    """Seconds of each step in the log so far."""
    log = run / "metrics.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [line["seconds"] for line in map(json.loads, lines) if "epoch" not in line]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.benchmark",
        description="Measure training throughput. Other options go to training.train.",
    )
    parser.add_argument("preset", help="name of a file in training/configs, without its suffix")
    parser.add_argument("data", help="directory of the data, in the COCO layout or another one: docs/datasets.md")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64], help="images per step")
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="numbers of processes on this machine")
    parser.add_argument("--steps", type=int, default=20, help="steps to count")
    args, settings = parser.parse_known_args()
    print("| processes | images a step | seconds a step | images a second |\n|---|---|---|---|", flush=True)
    for processes, batch_size in itertools.product(args.processes, args.batch_sizes):
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        with tempfile.TemporaryDirectory() as directory, cli_errors(RuntimeError):
            run = Path(directory) / "run"
            command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "training.train"]
            options = [f"--output-dir={run}", f"--batch_size={batch_size}", *settings]
            steps = measure_steps([*command, args.preset, args.data, *options], run, args.steps, processes)
            seconds = median(steps)
            print(f"| {processes} | {batch_size} | {seconds:.2f} | {batch_size / seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()

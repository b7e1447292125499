"""Walk the road of COCO at two sizes, and print memory and time beside what they would be if they grew linearly.

python -m training.rehearsal /tmp/rehearsal ../shared/data/flickr8k/train
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from eval.image_files import find_images
from eval.markdown import markdown_table
from training.rehearsal.generator import SPLITS, generate

SMALL = 0.1  # share of COCO of the smaller size
BYTES_PER_IMAGE = 2_000  # of generated files: a link, five captions, a row of the report
STAGES = (
    ("read", "train2017"),
    ("vocabulary", "train2017"),
    ("tokens", "train2017"),
    ("idf", "train2017"),
    ("order", "train2017"),
    ("score", "val2014"),
    ("evaluate", "val2014"),
)
COLUMNS = ["stage", "images", "seconds", "× linear", "memory, GB", "× linear", "Java, GB", "report, MB", "note"]


def measure(stage: str, data: Path, split: str) -> dict[str, Any]:
    """Run a stage in a process of its own.

    Returns:
        Images (`items`), `seconds`, peak `memory` and `java_memory` in bytes, and further values of the stage.

    Raises:
        RuntimeError: If it fails.
    """
    command = [sys.executable, "-m", "training.rehearsal.stages", stage, str(data), split]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The stage {stage} failed: {done.stderr[-1000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def format_rows(stage: str, split: str, small: dict[str, Any], full: dict[str, Any]) -> list[list[str]]:
    """Format the rows of a stage at both sizes; the second one has the ratio to linear growth from the first."""
    ratio = full["items"] / small["items"]
    rows = []
    for result in (small, full):
        growth = ["", ""] if result is small else [
            f"{full[name] / (ratio * small[name]):.2f}" for name in ("seconds", "memory")
        ]  # fmt: skip
        rows.append(
            [
                f"{stage} {split}",
                f"{result['items']:,}",
                f"{result['seconds']:.1f}",
                growth[0],
                f"{result['memory'] / 1e9:.2f}",
                growth[1],
                f"{result['java_memory'] / 1e9:.2f}" if result["java_memory"] else "",
                f"{result['bytes'] / 1e6:.1f}" if "bytes" in result else "",
                result.get("note", ""),
            ]
        )
    return rows


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.rehearsal", description="Rehearse the work on COCO with a generated data set."
    )
    parser.add_argument("directory", type=Path, help="directory of the generated data sets")
    parser.add_argument("images", help="directory of images to link to")
    parser.add_argument("--scale", type=float, default=1.0, help="share of COCO's images of the larger size")
    parser.add_argument("--stages", nargs="+", choices=[name for name, _ in STAGES], help="default: all")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    needed = round(sum(SPLITS.values()) * args.scale * (1 + SMALL) * BYTES_PER_IMAGE)
    if (free := shutil.disk_usage(args.directory).free) < needed:
        sys.exit(f"The rehearsal needs {needed / 1e9:.1f} GB; {args.directory} has {free / 1e9:.1f} GB left.")
    print(f"The rehearsal writes {needed / 1e9:.1f} GB to {args.directory}.", file=sys.stderr)
    images = [Path(path) for path in find_images([args.images])]
    sizes = [(args.directory / "small", SMALL * args.scale), (args.directory / "full", args.scale)]
    for directory, scale in sizes:
        if not (directory / "annotations" / "captions_val2014.json").exists():
            generate(directory, images, scale)
    rows = []
    for stage, split in STAGES:
        if not args.stages or stage in args.stages:
            results = [measure(stage, directory, split) for directory, _ in sizes]
            rows += format_rows(stage, split, *results)
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    print(markdown_table(COLUMNS, rows))


if __name__ == "__main__":
    main()

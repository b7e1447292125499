"""Command-line arguments that the measuring commands share."""

import argparse
from pathlib import Path

from eval.image_files import find_images
from eval.results import RESULTS

ROOT = Path(__file__).parent.parent
DEFAULT_BUNDLE = ROOT / "pretrained"
DEFAULT_IMAGES = ROOT / "samples" / "photos"


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--model` and `--images`."""
    parser.add_argument("--model", type=Path, default=DEFAULT_BUNDLE, help="bundle directory (default: pretrained)")
    parser.add_argument(
        "--images", nargs="+", default=[str(DEFAULT_IMAGES)], help="files, directories or glob patterns"
    )


def add_result_arguments(parser: argparse.ArgumentParser, *, name: str) -> None:
    """Add `--name`, with a default, and `--results`."""
    parser.add_argument("--name", default=name, help=f"name of the results (default: {name})")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of all results")


def read_images(arguments: argparse.Namespace) -> dict[str, bytes]:
    """Read the files that `--images` names.

    Returns:
        The encoded images by path.

    Raises:
        OSError: If an image is missing or cannot be read.
    """
    return {path: Path(path).read_bytes() for path in find_images(arguments.images)}

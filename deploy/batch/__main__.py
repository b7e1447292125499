"""Caption all images of a directory or of Parquet files into Parquet; the same command resumes a stopped job.

python -m deploy.batch samples/photos captions
python -m deploy.batch samples/photos captions --workers 2 --batch-size 16 --options beam_size=3
python -m deploy.batch data.parquet captions --image-column image --keep id
python -m deploy.batch s3://bucket/photos s3://bucket/captions --address auto --workers 16 --num-gpus 1
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from deploy.batch.ray_session import READER_CPUS, ray_session
from deploy.batch.results import COLUMNS, Results
from deploy.batch.sources import ImageFolder, ImageSource, ParquetFiles
from deploy.batch.storage import BatchJobError
from eval.files import parse_key_values
from handler.backends import PRECISIONS
from handler.bundle import load_bundle
from handler.errors import BundleError, RequestError
from handler.generation import GenerationConfig
from handler.serving.option_parsing import parse_options as parse_generation_options

DEFAULT_BUNDLE = Path(__file__).parent.parent.parent / "pretrained"
PROGRESS_SECONDS = 60  # from one progress line to the next


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.batch", description="Caption large image collections.")
    add = parser.add_argument
    add("images", help="directory of images, or Parquet: a path, s3://…, gs://…, hdfs://…")
    add("output", help="output directory, a path or URI")
    add("--model", type=Path, default=DEFAULT_BUNDLE, help="bundle directory (default: the shipped one)")
    add("--image-column", help="Parquet column of the images: bytes, paths or URIs")
    add("--keep", nargs="*", default=[], help="Parquet columns to copy to the output")
    add("--options", nargs="*", default=[], metavar="NAME=VALUE", help="generation options, e.g. beam_size=3")
    add("--precision", choices=PRECISIONS, default="fast", help="see docs/performance.md (default: fast)")
    add("--batch-size", type=_positive_int, default=16, help="images captioned together (default: 16)")
    add("--workers", type=_positive_int, help="number of workers (default: one per local CPU, else 1)")
    add("--threads", type=_positive_int, help="CPUs per worker (default: an equal share of this machine)")
    add("--num-gpus", type=float, default=0, help="GPUs per worker, e.g. 1 or 0.5 (default: 0)")
    add("--rows-per-file", type=_positive_int, default=1000, help="minimum images per output file (default: 1000)")
    add("--address", help="address of a Ray cluster (default: run on this machine only)")
    return parser


def main() -> None:
    """Run the command line."""
    arguments = build_parser().parse_args()
    try:
        caption(arguments)
    except (BatchJobError, BundleError, RequestError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("Stopped. Written results stay; the same command resumes the job.", file=sys.stderr)
        sys.exit(130)


def caption(arguments: argparse.Namespace) -> None:
    """Run the job that the command line describes."""
    bundle = load_bundle(arguments.model)
    options = parse_options(arguments.options, bundle[0].decoding)
    source = open_source(arguments)
    inputs = {"images": _absolute(arguments.images), "image_column": arguments.image_column, "keep": arguments.keep}
    model = {"model": bundle[0].digest, "precision": arguments.precision}
    results = Results(_absolute(arguments.output), inputs | asdict(options) | model)
    local_cpus = 1 if arguments.address else os.cpu_count() or 1
    count = arguments.workers or (1 if arguments.num_gpus else local_cpus)
    threads = arguments.threads or (1 if arguments.num_gpus else max(1, local_cpus // count))
    # One reader more than the workers need: if it does not run in a worker, Ray Data waits for its CPU for ever.
    cpus = count * threads + (READER_CPUS if arguments.num_gpus else threads)
    with results.lock():
        num_done = len(results.load_done())
        print(f"{source.count} images, {num_done} of them written before.", flush=True)
        if num_done < source.count:
            with ray_session(arguments.address, cpus, results.uri):
                from deploy.batch.job import WorkerConfig, run  # imports Ray, which reads the environment then

                results.repair()  # after the start of Ray, which leaves the workers of a killed job time to finish
                pending = source.remaining(results.load_done())
                workers = WorkerConfig(count, threads, arguments.num_gpus, arguments.batch_size, arguments.precision)
                with log_progress(results, source.count):
                    run(source, pending, results, bundle, options, workers, arguments.rows_per_file)
        results.repair()
        outcomes = results.outcomes()
    errors = ", ".join(f"{number} {name}" for name, number in outcomes.most_common() if name)
    print(f"{outcomes[None]} have a caption{f', others an error: {errors}' if errors else ''}.")


@contextmanager
def log_progress(results: Results, count: int) -> Iterator[None]:
    """Print the number of written images once a minute and at the end of the block.

    Args:
        results: Output directory.
        count: Number of all images.
    """
    finished, start, num_before = threading.Event(), time.monotonic(), results.outcomes().total()

    def log() -> None:
        num_written, elapsed = results.outcomes().total(), time.monotonic() - start
        rate = (num_written - num_before) / elapsed
        print(f"{num_written} of {count} written after {elapsed:.0f} s, {rate:.1f} images/s.", flush=True)

    def log_until_finished() -> None:
        while not finished.wait(PROGRESS_SECONDS):
            log()
        log()

    thread = threading.Thread(target=log_until_finished)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def parse_options(texts: Sequence[str], defaults: GenerationConfig) -> GenerationConfig:
    """Parse generation options from `name=value` texts.

    Raises:
        BatchJobError: If a text has no `=`, or an option cannot be used in a batch job.
        RequestError: If an option is unknown or out of range.
    """
    try:
        values = parse_key_values(texts)
    except ValueError as error:
        raise BatchJobError(str(error)) from error
    options = parse_generation_options(values, defaults)
    if options.attention:
        raise BatchJobError("attention is not written by a batch job: request it from the endpoint.")
    return options


def open_source(arguments: argparse.Namespace) -> ImageSource:
    """Open the images that the command line names.

    Raises:
        BatchJobError: If they are missing or arguments contradict each other.
    """
    if arguments.image_column:
        for name in set(arguments.keep) & set(COLUMNS):
            raise BatchJobError(f"Column '{name}' cannot be kept: the output has a column of that name.")
        return ParquetFiles(_absolute(arguments.images), arguments.image_column, arguments.keep)
    if arguments.keep:
        raise BatchJobError("--keep is for Parquet files: name the column of the images, too: --image-column")
    return ImageFolder(_absolute(arguments.images))


def _absolute(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.abspath(path)  # noqa: PTH100 - URIs and paths are both str


def _positive_int(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


if __name__ == "__main__":
    main()

"""Captions all pictures of a folder or of Parquet files into Parquet; the same command again goes on where it stopped.

python -m deploy.batch photos captions
python -m deploy.batch photos captions --workers 2 --batch-size 16 --options beam_size=3
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

from deploy.batch.ray_session import READER_CPUS, running_ray
from deploy.batch.results import COLUMNS, Results
from deploy.batch.sources import Folder, ParquetFiles, Source
from deploy.batch.storage import BatchJobError
from handler.backends import PRECISIONS
from handler.bundle import load_bundle
from handler.errors import BundleError, RequestError
from handler.generation import GenerationConfig
from handler.serving.options import parse_options

DEFAULT_BUNDLE = Path(__file__).parent.parent.parent / "pretrained"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.batch", description="Captions very many pictures.")
    parser.add_argument("pictures", help="a folder of pictures, or Parquet: a path, s3://…, gs://…, hdfs://…")
    parser.add_argument("output", help="the folder for the captions, alike")
    parser.add_argument(
        "--model", type=Path, default=DEFAULT_BUNDLE, help="a bundle's folder; left out, the shipped one"
    )
    parser.add_argument("--image-column", help="of Parquet files: the column of images' bytes, paths or URIs")
    parser.add_argument("--keep", nargs="*", default=[], help="of Parquet files: columns that the captions have too")
    parser.add_argument("--options", nargs="*", default=[], metavar="NAME=VALUE", help="such as beam_size=3")
    parser.add_argument("--precision", choices=PRECISIONS, default="fast", help="see docs/performance.md")
    parser.add_argument("--batch-size", type=_natural, default=16, help="pictures captioned together")
    parser.add_argument("--workers", type=_natural, help="models at work; left out, one a CPU here, else one")
    parser.add_argument("--threads", type=_natural, help="CPUs of each; left out, they share this machine's")
    parser.add_argument("--num-gpus", type=float, default=0, help="GPUs of each, such as 1 or 0.5")
    parser.add_argument("--rows-per-file", type=_natural, default=1000, help="pictures in a file of captions, at least")
    parser.add_argument("--address", help="of a Ray cluster; left out, this machine works alone")
    arguments = parser.parse_args()
    try:
        caption(arguments)
    except (BatchJobError, BundleError, RequestError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("Stopped; what is written stays. The same command goes on from there.", file=sys.stderr)
        sys.exit(130)


def caption(arguments: argparse.Namespace) -> None:
    """The job that the command line asks for."""
    bundle = load_bundle(arguments.model)
    options = chosen_options(arguments.options, bundle[0].decoding)
    source = chosen_source(arguments)
    places = {"pictures": _whole(arguments.pictures), "image_column": arguments.image_column, "keep": arguments.keep}
    decided = {"model": bundle[0].digest, "precision": arguments.precision}
    results = Results(_whole(arguments.output), places | asdict(options) | decided)
    here = 1 if arguments.address else os.cpu_count() or 1
    workers = arguments.workers or (1 if arguments.num_gpus else here)
    threads = arguments.threads or (1 if arguments.num_gpus else max(1, here // workers))
    # Room for a reader, where it is not one with a worker: Ray Data would wait for it for ever.
    cpus = workers * threads + (READER_CPUS if arguments.num_gpus else threads)
    with results.alone():
        before = len(results.done())
        print(f"{source.count} pictures, {before} of them written before.", flush=True)
        if before < source.count:
            with running_ray(arguments.address, cpus, results.uri):
                from deploy.batch.job import Workers, run  # it imports Ray, which reads its settings then

                work = source.left(results.done())  # asked again: a killed job's workers had a little time
                crew = Workers(workers, threads, arguments.num_gpus, arguments.batch_size, arguments.precision)
                with told_each_minute(results, source.count):
                    run(source, work, results, bundle, options, crew, arguments.rows_per_file)
            results.done()
        outcomes = results.outcomes()
    failed = ", ".join(f"{number} {name}" for name, number in outcomes.most_common() if name)
    print(f"{outcomes[None]} have a caption{f', others an error: {failed}' if failed else ''}.")


@contextmanager
def told_each_minute(results: Results, count: int) -> Iterator[None]:
    """Says how many pictures are written, as long as it goes on and at its end."""
    ended, began, before = threading.Event(), time.monotonic(), results.outcomes().total()

    def tell() -> None:
        while not ended.wait(60):
            say()
        say()

    def say() -> None:
        written, seconds = results.outcomes().total(), time.monotonic() - began
        speed = (written - before) / seconds
        print(f"{written} of {count} written after {seconds:.0f} s, {speed:.1f} a second.", flush=True)

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def chosen_options(texts: Sequence[str], defaults: GenerationConfig) -> GenerationConfig:
    """`name=value` … → options.

    Raises:
        BatchJobError: a text without `=`, or an option that means nothing here.
        RequestError: no option, or a value out of its range.
    """
    for text in texts:
        if "=" not in text:
            raise BatchJobError(f"An option is written name=value, not '{text}'.")
    options = parse_options(dict(text.split("=", 1) for text in texts), defaults)
    if options.attention:
        raise BatchJobError("attention is not written: ask the endpoint for it.")
    return options


def chosen_source(arguments: argparse.Namespace) -> Source:
    """Where the pictures come from.

    Raises:
        BatchJobError: it is not there.
    """
    if arguments.image_column:
        for name in set(arguments.keep) & set(COLUMNS):
            raise BatchJobError(f"No column '{name}' can be kept: the captions have one of that name.")
        return ParquetFiles(_whole(arguments.pictures), arguments.image_column, arguments.keep)
    if arguments.keep:
        raise BatchJobError("--keep is for Parquet files: say with --image-column where their pictures are.")
    return Folder(_whole(arguments.pictures))


def _whole(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.abspath(path)


def _natural(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"is at least 1, not {number}")
    return number


if __name__ == "__main__":
    main()

"""Command-line arguments and error handling that the commands of this package share."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eval.client import Client
from eval.data import CaptionedImage, read_split
from eval.results import split_name
from eval.transports import EndpointError

COCO_VAL = "val2017"  # what is scored if nothing else is said
EXIT_PARTIAL = 4  # exit code of scores that lack captions


@contextmanager
def cli_errors(*more: type[Exception], hint: str = "") -> Iterator[None]:
    """Exit with status 1 and one sentence on expected errors and on Ctrl-C, without a traceback.

    Args:
        more: Further expected errors, besides `OSError`, `ValueError`, `ModuleNotFoundError` and `EndpointError`.
        hint: Sentence to add on Ctrl-C, e.g. how to resume.
    """
    expected: tuple[type[Exception], ...] = (OSError, ValueError, ModuleNotFoundError, EndpointError, *more)
    try:
        yield
    except expected as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(f"Stopped. {hint}".rstrip())


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `split_from_args` reads."""
    parser.add_argument("data", type=Path, help="data in the COCO layout or another one: docs/datasets.md")
    parser.add_argument("split", help="e.g. val")
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N images of the split only")


def split_from_args(arguments: argparse.Namespace, *, require_images: bool = True) -> tuple[str, list[CaptionedImage]]:
    """Read the split that the arguments of `add_data_arguments` name; errors as in `read_split`.

    Returns:
        Name of the split in signatures, and its images.
    """
    data, split, limit = arguments.data, arguments.split, arguments.limit
    try:
        images = read_split(data, split, limit=limit, require_images=require_images)
    except FileNotFoundError as error:
        if split != COCO_VAL:
            raise
        raise FileNotFoundError(
            f"COCO's {split} is not in {data}: run `make data DATA={data} SPLITS={split}`, which downloads its 5,000 "
            "images and their captions (0.8 GB, about a minute at 100 Mbit/s), or take a first look with "
            "`make eval DATA=samples SPLIT=photos`."
        ) from error
    return split_name(data, split, limit), images


def add_endpoint_arguments(parser: argparse.ArgumentParser, *, retries: int) -> None:
    """Add the arguments that `client_from_args` reads.

    Args:
        parser: Parser to add them to.
        retries: Default of `--retries`.
    """
    parser.add_argument("--endpoint", help="URL (REST) or host:port (gRPC); default: TorchServe on this machine")
    parser.add_argument("--protocol", choices=["rest", "grpc"], default="rest")
    parser.add_argument("--model", default="captioner", help="name of the model at the endpoint")
    parser.add_argument("--concurrency", type=int, default=8, help="number of concurrent requests")
    parser.add_argument("--timeout", type=float, default=60, help="seconds per attempt")
    parser.add_argument("--retries", type=int, default=retries, help="retries while the endpoint is busy or away")
    add_token_argument(parser)


def add_token_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--token`, which defaults to the environment variable CAPTIONER_TOKEN."""
    token = os.environ.get("CAPTIONER_TOKEN")
    parser.add_argument("--token", default=token, help="bearer token; default: CAPTIONER_TOKEN")


def client_from_args(arguments: argparse.Namespace) -> Client:
    """Create the client that the arguments of `add_endpoint_arguments` describe; errors as in `Client`."""
    return Client(
        arguments.endpoint,
        protocol=arguments.protocol,
        model=arguments.model,
        timeout=arguments.timeout,
        retries=arguments.retries,
        token=arguments.token,
        concurrency=arguments.concurrency,
    )


def add_metric_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--no-meteor`, and the models of `eval.model_metrics`: `--clip` and `--bert`."""
    reason = "skip METEOR, which takes ten seconds to start and 1.2 GB of memory"
    parser.add_argument("--no-meteor", dest="meteor", action="store_false", help=reason)
    parser.add_argument("--clip", type=Path, metavar="DIRECTORY", help="CLIP model, for CLIPScore and RefCLIPScore")
    parser.add_argument("--bert", type=Path, metavar="DIRECTORY", help="text encoder, for BERTScore")


def add_partial_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--allow-partial`."""
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help=f"exit with 0 if images have no caption, not with {EXIT_PARTIAL}; they count as empty captions",
    )

"""Caption a split through a running endpoint and score it. Run the same command again to resume.

python -m eval.run ../shared/data/flickr8k val --run mine
python -m eval.run ../shared/data/flickr8k val --run mine-grpc --protocol grpc --endpoint 127.0.0.1:7070 beam_size=3
python -m eval.run ../shared/data/flickr8k val --run new --baseline mine
"""

import argparse
import errno
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from eval.caption_sets import write_caption_sets
from eval.cli import (
    EXIT_PARTIAL,
    add_data_arguments,
    add_endpoint_arguments,
    add_metric_arguments,
    add_partial_argument,
    cli_errors,
    client_from_args,
    split_from_args,
)
from eval.client import Client
from eval.compare import (
    EXIT_REGRESSION,
    Comparison,
    compare_runs,
    format_comparison,
    read_captions,
    regressions,
    score_run,
)
from eval.data import CaptionedImage, load_training_split
from eval.files import atomic_write_text, parse_key_values
from eval.hallucination import read_objects
from eval.meteor import Meteor, optional_meteor
from eval.metrics import compute_all_metrics
from eval.model_metrics import ModelMetrics
from eval.preflight import check_metrics
from eval.report import write_run
from eval.request_log import RequestLog, open_log
from eval.results import RESULTS, split_digest, write_results
from eval.summary import coverage_warning, format_summary, summarize
from eval.transports import EndpointError, Unreachable

LOG, SCORES, REPORT = "requests.jsonl", "scores.json", "report.html"
CAPTIONS, CAPTION_SETS = "captions.json", "caption_sets.json"
PERCENTILES = (50, 95, 99)
RETRY_DELAY = 2.0  # seconds before failed images are requested again
DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # disk, quota or file size limit
RESUME = "Run the same command again to resume."
START = "`make serve` starts a server here, ENDPOINT=… names another one. "


@dataclass(frozen=True)
class EvalRun:
    """A run: what to caption, how to score it, where to write the results.

    Attributes:
        directory: Directory of the results.
        split: Name of the split in the signature.
        images: Images of the split.
        options: Generation options of the endpoint.
        train: Training split, to count copied captions; may be empty.
        objects: Annotated object categories by image id; None without annotations of objects.
        baseline: Captions of the baseline by image id; None without one.
        models: Models of further metrics.
    """

    directory: Path
    split: str
    images: Sequence[CaptionedImage]
    options: dict[str, str]
    train: Sequence[CaptionedImage]
    objects: dict[int, set[str]] | None
    baseline: dict[int, str] | None
    models: ModelMetrics


def load_run(arguments: argparse.Namespace) -> EvalRun:
    """Read the split and the baseline.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file or an argument is invalid.
    """
    split, images = split_from_args(arguments)
    name = re.sub(r"[^\w.-]+", "-", split).strip("-")
    directory = arguments.results / (arguments.run or f"{name}-{arguments.protocol}")
    train = load_training_split(arguments.data, arguments.train)
    objects = read_objects(arguments.data / Path(arguments.split).parent, images)
    options = parse_key_values(arguments.options)
    baseline = None
    if arguments.baseline:
        path = arguments.results / arguments.baseline
        if not (path / SCORES).is_file():
            raise FileNotFoundError(f"The baseline {path} has no {SCORES}.")
        if path.resolve() == directory.resolve():
            raise ValueError("A run cannot be its own baseline: choose another RUN.")
        baseline = read_captions(path, images)
    models = ModelMetrics(arguments.clip, arguments.bert)
    models.check()
    return EvalRun(directory, split, images, options, train, objects, baseline, models)


def collect_captions(run: EvalRun, client: Client, log: RequestLog) -> int:
    """Request the captions that the log does not hold.

    Returns:
        Number of images that the log held before.

    Raises:
        Unreachable: If the endpoint is unreachable. The log is complete up to then.
        ValueError: If the model of the endpoint has changed, or no image has a caption.
    """
    num_resumed = sum(log.is_done(image.id) for image in run.images)
    if num_resumed == len(run.images):
        verify_model(client, run, log)
    else:
        caption_missing(client, run, log)
    if not any("caption" in line for line in log.answers.values()):
        first = next(iter(log.answers.values()))["error"]["message"]
        raise ValueError(f"No image got a caption. The first error is: {first}")
    return num_resumed


def caption_missing(client: Client, run: EvalRun, log: RequestLog) -> None:
    """Request each image that is not done, and failed ones a second time at the end; errors as `collect_captions`."""
    missing = [image for image in run.images if not log.is_done(image.id)]
    with tqdm(total=len(run.images), initial=len(run.images) - len(missing), desc="captioning", unit="image") as bar:
        for is_last in (False, True):
            requests = ((image.id, image.path.read_bytes) for image in missing)
            for result in client.caption_all(requests, in_order=False, **run.options):
                log.add(result)
                bar.update(is_last or log.is_done(result.key))
                if isinstance(result.response, EndpointError):
                    tqdm.write(f"image {result.key}: {result.response}", file=sys.stderr)
            missing = [image for image in missing if not log.is_done(image.id)]
            if missing and not is_last:
                time.sleep(RETRY_DELAY)


def verify_model(client: Client, run: EvalRun, log: RequestLog) -> None:
    """Request one image of a complete log again, to detect that the endpoint has another model now.

    If the endpoint does not respond, a warning is printed and the captions of the log are used.

    Raises:
        ValueError: If the model has changed.
    """
    image = next((image for image in run.images if "caption" in log.answers[image.id]), None)
    if image:
        try:
            log.check_model(client.caption(image.path.read_bytes(), **run.options))
        except EndpointError as error:
            print(f"Cannot check that the endpoint still has the same model: {error}", file=sys.stderr)


def score_captions(run: EvalRun, log: RequestLog, meteor: Meteor | None) -> tuple[dict[str, Any], Comparison | None]:
    """Score the captions of the log and write captions, scores and report.

    Returns:
        The content of `scores.json`, and the comparison with the baseline if there is one.

    Raises:
        JavaError: If the tokenizer fails.
    """
    lines = {image.id: log.answers[image.id] for image in run.images}
    captions = {image: line.get("caption", "") for image, line in lines.items()}
    num_captioned = sum("caption" in line for line in lines.values())
    write_results(run.directory / CAPTIONS, captions)
    caption_sets = {image: line["captions"] for image, line in lines.items() if "captions" in line}
    if caption_sets:
        write_caption_sets(run.directory / CAPTION_SETS, caption_sets)
    comparison = None
    decoding = decoding_signature(log, run.options)
    measured, content = summarize(
        run.split,
        run.images,
        captions,
        decoding,
        run.train,
        meteor,
        caption_sets=caption_sets,
        objects=run.objects,
        num_captioned=num_captioned,
        models=run.models,
    )
    if run.baseline is not None:
        references = {image.id: image.captions for image in run.images}
        baseline_scores = compute_all_metrics(references, run.baseline, meteor)
        baseline_scores.add_means(run.models.score(run.images, run.baseline))
        baseline = score_run(run.baseline, baseline_scores)
        comparison = compare_runs(baseline, score_run(captions, measured), meteor)
    content |= run_statistics(log, run.images)
    name = run.directory.name
    write_run(run.directory / REPORT, name, content, run.images, captions, measured, log.answers)
    atomic_write_text(run.directory / SCORES, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return content, comparison


def decoding_signature(log: RequestLog, options: dict[str, str]) -> str:
    """Return the options and the model that made the captions, for the signature."""
    decoding = "|".join(f"{name}:{value}" for name, value in sorted(options.items())) or "options:the endpoint's"
    digest = str(log.model.get("digest", "unknown"))[:19] if isinstance(log.model, dict) else "unknown"
    return f"{decoding}|model:{digest}"


def run_statistics(log: RequestLog, images: Sequence[CaptionedImage]) -> dict[str, Any]:
    """Compute failures, latency and throughput.

    The latency of an image is from its first attempt to its last response, including backoff.
    """
    lines = [log.answers[image.id] for image in images]
    failures = [{"image_id": line["image_id"]} | line["error"] for line in lines if "error" in line]
    seconds = [line["seconds"] for line in lines if "caption" in line]
    latency = {f"p{p}": round(1000 * float(np.percentile(seconds, p)), 2) for p in PERCENTILES} if seconds else {}
    return {
        "failed": len(failures),
        "failures": failures,
        "latency_ms": latency,
        "throughput": round(len(seconds) / log.seconds, 2) if log.seconds else None,
        "model": log.model,
    }


@contextmanager
def resumable(directory: Path, hint: str = "") -> Iterator[None]:
    """Exit with a message that says how to resume, if the endpoint is unreachable or the disk is full.

    Args:
        directory: Directory of the results.
        hint: Sentence to add if the endpoint is unreachable, with a space at its end.
    """
    try:
        yield
    except Unreachable as error:
        sys.exit(f"{error} {hint}{RESUME}")
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        sys.exit(f"Cannot write to {directory} ({error.strerror}): free some space. {RESUME}")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of this command."""
    parser = argparse.ArgumentParser(prog="python -m eval.run", description="Caption a split and score it.")
    add_data_arguments(parser)
    parser.add_argument("options", nargs="*", help="generation options of the endpoint, e.g. beam_size=3")
    parser.add_argument("--run", default="", help="name below eval/results; default: data set, split and protocol")
    add_endpoint_arguments(parser, retries=10)
    parser.add_argument("--train", help="training split, to count captions that are copies of its captions")
    parser.add_argument("--baseline", help="run on the same split; exit code 3 if a score is significantly worse")
    add_metric_arguments(parser)
    add_partial_argument(parser)
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of all runs")
    return parser


def main() -> None:
    """Run the command."""
    arguments = build_parser().parse_intermixed_args()
    with cli_errors(RuntimeError, hint=RESUME):
        run = load_run(arguments)
        with (
            optional_meteor(arguments.meteor) as meteor,
            resumable(run.directory, hint="" if arguments.endpoint else START),
            open_log(
                run.directory / LOG,
                {"split": run.split, "references": split_digest(run.images), "options": run.options},
            ) as log,
        ):
            check_metrics(meteor)
            with client_from_args(arguments) as client:
                num_resumed = collect_captions(run, client, log)
            content, comparison = score_captions(run, log, meteor)
    print(f"{format_summary(content)}\n\n{content['signature']}")
    if num_resumed:
        print(f"{num_resumed} of {content['n']} captions are from {run.directory / LOG} and were not requested again.")
    print(f"{content['failed']} of {content['n']} images failed. Report: {run.directory / REPORT}")
    if partial := coverage_warning(content):
        print(partial, file=sys.stderr)
    if comparison:
        print(f"\n{format_comparison(comparison, arguments.baseline, run.directory.name)}")
        if worse := regressions(comparison):
            print(f"Significantly worse than {arguments.baseline}: {', '.join(worse)}.", file=sys.stderr)
            sys.exit(EXIT_REGRESSION)
    if partial and not arguments.allow_partial:
        sys.exit(EXIT_PARTIAL)


if __name__ == "__main__":
    main()

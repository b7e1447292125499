"""Captions a split through a running endpoint and scores it; the same command again goes on where it stopped.

python -m eval.run ../shared/data/flickr8k val --run mine
python -m eval.run ../shared/data/flickr8k val --run mine-grpc --protocol grpc --endpoint 127.0.0.1:7070 beam_size=3
python -m eval.run ../shared/data/flickr8k val --run new --baseline mine
"""

import argparse
import errno
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from eval.client import Client, EndpointError, Unreachable
from eval.coco import CaptionedImage, read_split
from eval.compare import REGRESSION, MeasuredRun, compare_runs, measure_run, read_captions, regressions
from eval.compare import table as differences_table
from eval.meteor import optional_meteor
from eval.report import write_run
from eval.request_log import RequestLog
from eval.summary import (
    RESULTS,
    add_meteor_option,
    atomic_write_text,
    load_training_split,
    split_digest,
    split_name,
    summarize,
    table,
    write_results,
)  # fmt: skip

LOG, CAPTIONS, SCORES, REPORT = "requests.jsonl", "captions.json", "scores.json", "report.html"
PERCENTILES = (50, 95, 99)
PAUSE = 2.0  # s, before what broke is asked for again
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no room on the disk, for this user, in one file


def ask(client: Client, images: Sequence[CaptionedImage], log: RequestLog, options: dict[str, Any]) -> None:
    """Asks for each picture that the log has no answer for.

    Raises:
        Unreachable: the endpoint is gone; the log is whole.
        ValueError: its model is another one now.
    """
    left = [image for image in images if not log.settled(image.id)]
    with tqdm(total=len(images), initial=len(images) - len(left), desc="captioning", unit="picture") as bar:
        for last in (False, True):  # what broke, and was not refused, is worth asking a second time, after all others
            for outcome in client.caption_all(
                ((image.id, image.path.read_bytes) for image in left), in_order=False, **options
            ):
                log.add(outcome)
                bar.update(last or log.settled(outcome.key))
                if isinstance(outcome.result, EndpointError):
                    tqdm.write(f"picture {outcome.key}: {outcome.result}", file=sys.stderr)
            left = [image for image in left if not log.settled(image.id)]
            if left and not last:
                time.sleep(PAUSE)


def confirm(client: Client, images: Sequence[CaptionedImage], log: RequestLog, options: dict[str, Any]) -> None:
    """Asks for one picture again where the log has them all: by now the endpoint may have another model.

    Where it does not answer, the captions are the log's all the same.

    Raises:
        ValueError: its model is another one now.
    """
    image = next((image for image in images if "caption" in log.answers[image.id]), None)
    if image:
        try:
            log.confirm(client.caption(image.path.read_bytes(), **options))
        except EndpointError as error:
            print(f"Whether the endpoint still has the same model is not known: {error}", file=sys.stderr)


def describe(log: RequestLog, options: dict[str, Any]) -> str:
    """How and by what the captions were made, for the signature."""
    decoding = "|".join(f"{name}:{value}" for name, value in sorted(options.items())) or "options:the endpoint's"
    model = log.model
    digest = str(model.get("digest", "unknown"))[:19] if isinstance(model, dict) else "unknown"
    return f"{decoding}|model:{digest}"


def speed_and_failures(log: RequestLog, images: Sequence[CaptionedImage]) -> dict[str, Any]:
    """What the log says of failures and speed.

    A picture's latency is from its first try to its last answer, pauses for a full queue among them.
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


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """`name=value` … → options; what they may be is the endpoint's to say.

    Raises:
        ValueError: a text without `=`.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"An option is written name=value, not '{text}'.")
        options[name] = value
    return options


def main() -> None:
    parser = argparse.ArgumentParser(description="Captions a split through an endpoint and scores it.")
    parser.add_argument("data", type=Path, help="the folder in COCO's layout")
    parser.add_argument("split", help="such as val")
    parser.add_argument("options", nargs="*", help="options of the endpoint, such as beam_size=3")
    parser.add_argument(
        "--run", default="", help="its name below eval/results; left out, made of set, split and protocol"
    )
    parser.add_argument("--endpoint", help="URL (REST) or host:port (gRPC); left out, TorchServe on this machine")
    parser.add_argument("--protocol", choices=["rest", "grpc"], default="rest")
    parser.add_argument("--model", default="captioner", help="its name at the endpoint")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at once")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for one try")
    parser.add_argument("--retries", type=int, default=10, help="further tries while the endpoint is busy or away")
    parser.add_argument("--token", default=os.environ.get("CAPTIONER_TOKEN"), help="or in CAPTIONER_TOKEN")
    parser.add_argument("--train", help="the training split, to tell which captions are copies of its")
    parser.add_argument("--baseline", help="a run of the same split; a score significantly worse ends with status 3")
    add_meteor_option(parser)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of all runs")
    arguments = parser.parse_intermixed_args()
    data, split = arguments.data, arguments.split
    name = split_name(data, split)
    run = arguments.results / (arguments.run or f"{name.replace('/', '-')}-{arguments.protocol}")
    log = None
    try:
        images = read_split(data, split)
        train = load_training_split(data, arguments.train)
        options = parse_options(arguments.options)
        if arguments.baseline:
            baseline = arguments.results / arguments.baseline
            if not (baseline / SCORES).is_file():
                raise FileNotFoundError(f"The baseline {baseline} has no {SCORES}.")
            if baseline.resolve() == run.resolve():
                raise ValueError("A run is no baseline of its own: name another RUN.")
            before = read_captions(baseline, images)
        log = RequestLog(run / LOG, {"split": name, "references": split_digest(images), "options": options})
        with Client(
            arguments.endpoint, protocol=arguments.protocol, model=arguments.model, timeout=arguments.timeout,
            retries=arguments.retries, token=arguments.token, concurrency=arguments.concurrency,
        ) as client:  # fmt: skip
            known = sum(log.settled(image.id) for image in images)
            if known == len(images):
                confirm(client, images, log, options)
            else:
                ask(client, images, log, options)
        captions = {image.id: log.answers[image.id].get("caption", "") for image in images}
        if not any("caption" in line for line in log.answers.values()):
            first = next(iter(log.answers.values()))["error"]["message"]
            raise ValueError(f"No picture got a caption; the first one's error is: {first}")
        write_results(run / CAPTIONS, captions)
        worse = []
        with optional_meteor(arguments.meteor) as meteor:
            measured, content = summarize(name, images, captions, describe(log, options), train, meteor)
            if arguments.baseline:
                old = measure_run(before, images, meteor)
                comparison = compare_runs(old, MeasuredRun(captions, measured), meteor)
                worse = regressions(comparison)
        content |= speed_and_failures(log, images)
        write_run(run / REPORT, run.name, content, images, captions, measured, log.answers)
        atomic_write_text(run / SCORES, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    except Unreachable as error:
        sys.exit(f"{error} The same command goes on where it stopped.")
    except OSError as error:
        if error.errno not in FULL:
            sys.exit(str(error))
        sys.exit(f"{run} can't be written ({error.strerror}): make room. The same command goes on where it stopped.")
    except (ModuleNotFoundError, ValueError, RuntimeError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on where it stopped.")
    finally:
        if log:
            log.close()
    print(f"{table(content)}\n\n{content['signature']}")
    if known:
        print(f"{known} of {content['n']} captions are from the log {run / LOG}, and were not asked for again.")
    print(f"{content['failed']} of {content['n']} pictures failed. The report is {run / REPORT}.")
    if arguments.baseline:
        print(f"\n{differences_table(comparison.differences, arguments.baseline, run.name)}")
    if worse:
        print(f"Significantly worse than {arguments.baseline}: {', '.join(worse)}.", file=sys.stderr)
        sys.exit(REGRESSION)


if __name__ == "__main__":
    main()

"""Stages of the work on a data set, each run in a process of its own to measure its memory.

python -m training.rehearsal.stages read /tmp/coco train2017
"""

import argparse
import contextlib
import io
import json
import resource
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch

import eval.run
import eval.score
from eval.data import CaptionedImage, read_split
from handler.modeling.vocabulary import Vocabulary, build_vocabulary
from training.data.dataset import CaptionDataset
from training.rewards.cider_d import CiderD

MIN_COUNT, MAX_LENGTH = 5, 20
BATCH_SIZE = 256
PROCESSES = (1, 2, 8)
Result = dict[str, Any]


class NoImages:
    """An image source without images, so that the order of an epoch takes no time for them."""

    def __call__(self, indices: Any, seeds: Any) -> torch.Tensor:  # noqa: ANN401, ARG002
        """Return nothing."""
        return torch.zeros(0)


def read(data: Path, split: str) -> Result:
    """Read the split."""
    return {"items": len(read_split(data, split))}


def vocabulary(data: Path, split: str) -> Result:
    """Build the vocabulary."""
    images = read_split(data, split)
    start = time.perf_counter()
    words = _vocabulary(images)
    return {"items": len(images), "seconds": time.perf_counter() - start, "note": f"{len(words):,} tokens"}


def tokens(data: Path, split: str) -> Result:
    """Encode all captions as token ids."""
    images = read_split(data, split)
    words = _vocabulary(images)
    start = time.perf_counter()
    _dataset(images, words, 0, 1)
    return {"items": len(images), "seconds": time.perf_counter() - start}


def idf(data: Path, split: str) -> Result:
    """Count the n-grams of the reward of self-critical training."""
    images = read_split(data, split)
    references = _dataset(images, _vocabulary(images), 0, 1).captions
    start = time.perf_counter()
    CiderD(references)
    return {"items": len(images), "seconds": time.perf_counter() - start}


def order(data: Path, split: str) -> Result:
    """Go through the batches of an epoch with 1, 2 and 8 processes, and resume in its middle.

    Raises:
        RuntimeError: If the processes do not share the images of each step, or the order depends on their number.
    """
    images = read_split(data, split)
    words = _vocabulary(images)
    start = time.perf_counter()
    epochs = []
    for world_size in PROCESSES:
        ranks = [_dataset(images, words, rank, world_size) for rank in range(world_size)]
        steps = range(len(ranks[0]))
        epochs.append([sorted(index for dataset in ranks for index in dataset[step].indices) for step in steps])
    flat = [index for step in epochs[0] for index in step]
    if len(set(flat)) != len(flat) or any(epoch != epochs[0] for epoch in epochs):
        raise RuntimeError("The processes do not share the images of a step, or share them otherwise than one process.")
    middle = len(steps) // 2
    resumed = _dataset(images, words, 0, 1)
    if any(sorted(resumed[step].indices) != epochs[0][step] for step in range(middle, len(steps))):
        raise RuntimeError("A resumed epoch has another order.")
    note = f"{len(steps):,} steps, the same with {PROCESSES} processes and resumed at step {middle:,}"
    return {"items": len(images), "seconds": time.perf_counter() - start, "note": note}


def evaluate(data: Path, split: str) -> Result:
    """Run `make eval` with an endpoint in this process that responds with generated captions."""
    results = json.loads((data / "results" / f"{split}.json").read_text())
    captions = iter(entry["caption"] for entry in results)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Respond with the next caption, whatever the image."""
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                body = json.dumps({"caption": next(captions)}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint, runs = f"http://127.0.0.1:{server.server_port}", data / "runs"
    seconds = {name: _timed(eval.run, name) for name in ("collect_captions", "write_run")}
    arguments = [
        str(data),
        split,
        "--endpoint",
        endpoint,
        "--results",
        str(runs),
        "--run",
        f"{split}-{time.time():.0f}",
    ]
    _main(eval.run.main, arguments)
    server.shutdown()
    report = max(runs.glob(f"{split}-*/report.html"), key=lambda path: path.stat().st_mtime)
    spent = {name: sum(values) for name, values in seconds.items()}
    note = f"of which captions {spent['collect_captions']:,.0f} s, report {spent['write_run']:,.0f} s"
    return {"items": len(results), "bytes": report.stat().st_size, "note": note}


def score(data: Path, split: str) -> Result:
    """Run `make score` with all intervals."""
    results = data / "results" / f"{split}.json"
    _main(eval.score.main, [str(results), str(data), split])
    return {"items": len(json.loads(results.read_text()))}


STAGES: dict[str, Callable[[Path, str], Result]] = {
    "read": read,
    "vocabulary": vocabulary,
    "tokens": tokens,
    "idf": idf,
    "order": order,
    "score": score,
    "evaluate": evaluate,
}


def _vocabulary(images: list[CaptionedImage]) -> Vocabulary:
    return build_vocabulary((text for image in images for text in image.captions), MIN_COUNT)


def _dataset(images: list[CaptionedImage], words: Vocabulary, rank: int, world_size: int) -> CaptionDataset:
    return CaptionDataset(
        images,
        NoImages(),
        words,
        batch_size=BATCH_SIZE,
        captions_per_image=5,
        max_length=MAX_LENGTH,
        seed=1,
        rank=rank,
        world_size=world_size,
    )


def _timed(module: Any, name: str) -> list[float]:  # noqa: ANN401
    """Let a function of a module append the seconds of each call to the list that is returned."""
    function, seconds = getattr(module, name), list[float]()

    def timed(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(module, name, timed)
    return seconds


def _main(main: Callable[[], None], arguments: list[str]) -> None:
    sys.argv[1:] = arguments
    with contextlib.redirect_stdout(io.StringIO()):
        main()


def main() -> None:
    """Run one stage and print its measurements as JSON."""
    parser = argparse.ArgumentParser(prog="python -m training.rehearsal.stages", description="Run a stage.")
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("data", type=Path, help="generated data set")
    parser.add_argument("split", help="e.g. train2017")
    args = parser.parse_args()
    np.random.default_rng()  # imports are not part of the time
    start = time.perf_counter()
    result = STAGES[args.stage](args.data, args.split)
    java = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    usage = {
        "seconds": time.perf_counter() - start,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "java_memory": java * (args.stage in {"score", "evaluate"}),  # imports start processes, too
    }
    print(json.dumps(usage | result))


if __name__ == "__main__":
    main()

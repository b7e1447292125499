"""Load endpoints with images and measure throughput, latency, errors and the stage times of the server.

python -m eval.load_test http://127.0.0.1:8080 --concurrency 1 4 16
python -m eval.load_test http://127.0.0.1:8080 --rates 5 10 20 --images ../shared/data/coco/val2017 beam_size=3
python -m eval.load_test http://127.0.0.1:8080 http://127.0.0.1:9080 --name both

There are two kinds of load. In a closed loop each of N clients sends its next request when it has the last response.
This measures the maximum throughput, but a server that stalls also stalls the clients, which hides the waiting. In an
open loop requests are sent at a fixed rate, and latency counts from the time at which a request was due, so that no
waiting is omitted ("coordinated omission").
"""

import argparse
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from eval.cli import add_token_argument, cli_errors
from eval.client import Client
from eval.files import atomic_write_text, parse_key_values
from eval.image_files import find_images
from eval.markdown import markdown_table
from eval.prometheus import MetricsDelta, metrics_url, read_metrics
from eval.results import RESULTS
from eval.transports import EndpointError

PERCENTILES = (50, 95, 99)
MAX_IN_FLIGHT = 256  # concurrent requests of an open loop
STAGES = ("decode", "encode", "search")


@dataclass
class LoadResult:
    """Measurements of one level of load.

    Attributes:
        endpoint: URL or host:port.
        kind: `closed` or `open`.
        level: Number of clients of a closed loop, images per second of an open loop.
        seconds: Duration.
        answered: Number of captions.
        errors: Number of errors by type.
        throughput: Captions per second.
        latency_ms: `p50`, `p95`, `p99` and `max`; in an open loop from the time at which a request was due.
        stages_ms: Mean time by stage, per request or batch; empty if the server reports no metrics.
        batch: Mean batch size; None if the server reports no metrics.
    """

    endpoint: str
    kind: str
    level: float
    seconds: float = 0.0
    answered: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    throughput: float = 0.0
    latency_ms: dict[str, float] = field(default_factory=dict)
    stages_ms: dict[str, float] = field(default_factory=dict)
    batch: float | None = None


class ResultCollector:
    """Collects latencies and errors of requests from many threads.

    Attributes:
        latencies: Seconds, of successful requests.
        errors: Number of errors by type.
    """

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()
        self._lock = threading.Lock()

    def send(self, client: Client, image: bytes, options: dict[str, Any], due: float) -> None:
        """Send a request; its latency counts from `due`, a time of `perf_counter`."""
        try:
            client.caption(image, **options)
            error = None
        except EndpointError as refused:
            error = refused.type
        except Exception as fault:  # a fault of this program is not a response either
            error = type(fault).__name__
        seconds = time.perf_counter() - due
        with self._lock:
            if error:
                self.errors[error] += 1
            else:
                self.latencies.append(seconds)


def closed_loop(
    client: Client, images: Iterator[bytes], options: dict[str, Any], clients: int, seconds: float
) -> ResultCollector:
    """Run `clients` threads for `seconds`, each with one request at a time."""
    collector, end, lock = ResultCollector(), time.perf_counter() + seconds, threading.Lock()

    def send_requests() -> None:
        while time.perf_counter() < end:
            with lock:
                image = next(images)
            collector.send(client, image, options, time.perf_counter())

    threads = [threading.Thread(target=send_requests, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return collector


def open_loop(
    client: Client, images: Iterator[bytes], options: dict[str, Any], rate: float, seconds: float
) -> ResultCollector:
    """Send `rate` requests per second for `seconds`, evenly spaced, and wait for all responses."""
    collector, start = ResultCollector(), time.perf_counter()
    with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
        for number in range(max(1, round(rate * seconds))):
            due = start + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            pool.submit(collector.send, client, next(images), options, due)
    return collector


def measure(result: LoadResult, run: Callable[[], ResultCollector], metrics: str | None) -> LoadResult:
    """Run a load and fill in its result, with the change of the server metrics if their URL is given."""
    before, start = read_metrics(metrics), time.perf_counter()
    collector = run()
    result.seconds = time.perf_counter() - start
    after = read_metrics(metrics)
    result.answered, result.errors = len(collector.latencies), dict(collector.errors)
    result.throughput = result.answered / result.seconds
    if collector.latencies:
        result.latency_ms = {f"p{p}": 1000 * float(np.percentile(collector.latencies, p)) for p in PERCENTILES}
        result.latency_ms["max"] = 1000 * max(collector.latencies)
    if before is not None and after is not None:
        change = MetricsDelta(before, after)
        means = {stage: change.mean(f"captioner_{stage}_seconds") for stage in STAGES}
        result.stages_ms = {stage: 1000 * mean for stage, mean in means.items() if mean is not None}
        result.batch = change.mean("captioner_batch_images")
    return result


def format_results(results: Iterable[LoadResult]) -> str:
    """Format a Markdown table with a row for each level of load."""
    columns = ["endpoint", "load", "captions/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors", "batch"]
    rows = []
    for result in results:
        unit = "images/s" if result.kind == "open" else "client" if result.level == 1 else "clients"
        latency = [
            f"{result.latency_ms[key]:.0f}" if result.latency_ms else "–" for key in ("p50", "p95", "p99", "max")
        ]
        errors = ", ".join(f"{count} {kind}" for kind, count in result.errors.items()) or "0"
        batch = "–" if result.batch is None else f"{result.batch:.1f}"
        stages = [f"{result.stages_ms[stage]:.1f}" if stage in result.stages_ms else "–" for stage in STAGES]
        load = f"{result.level:g} {unit}"
        rows.append([result.endpoint, load, f"{result.throughput:.1f}", *latency, errors, batch, *stages])
    return markdown_table([*columns, *(f"{stage} ms" for stage in STAGES)], rows)


def plot_results(results: Sequence[LoadResult], path: Path) -> None:
    """Plot latency over throughput, one line per endpoint, kind of load and percentile."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for (endpoint, kind), group in itertools.groupby(results, lambda result: (result.endpoint, result.kind)):
        answered = [result for result in group if result.latency_ms]
        throughput = [result.throughput for result in answered]
        for percentile, style in (("p50", "-o"), ("p95", "--o")):
            latency = [result.latency_ms[percentile] for result in answered]
            axes.plot(throughput, latency, style, label=f"{endpoint}, {kind} loop, {percentile}", markersize=4)
    axes.set(xlabel="captions/s", ylabel="latency, ms", ylim=(0, None), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def run_levels(
    arguments: argparse.Namespace, endpoints: Sequence[str], options: dict[str, str], images: Sequence[bytes]
) -> list[LoadResult]:
    """Measure every level of load on every endpoint.

    Raises:
        EndpointError: If an endpoint does not caption the first image.
        ValueError: If there is no endpoint or no level, a level is not positive, or a metrics port is missing.
    """
    levels = [("closed", level) for level in arguments.concurrency] + [("open", rate) for rate in arguments.rates]
    if any(level <= 0 for _, level in levels) or not levels or not endpoints:
        raise ValueError("Give at least one endpoint and one level of load; all levels must be above 0.")
    ports = arguments.metrics_ports * (len(endpoints) if len(arguments.metrics_ports) == 1 else 1)
    if len(ports) != len(endpoints):
        raise ValueError(f"--metrics-ports needs one port or {len(endpoints)}, one per endpoint.")
    results: list[LoadResult] = []
    with tqdm(total=len(endpoints) * len(levels), desc="loading", unit="level") as bar:
        # Endpoints take turns, so that other work of the machine affects them equally.
        for (kind, level), (endpoint, port) in itertools.product(levels, zip(endpoints, ports, strict=True)):
            with Client(
                endpoint,
                protocol=arguments.protocol,
                model=arguments.model,
                timeout=arguments.timeout,
                retries=0,
                token=arguments.token,
                concurrency=MAX_IN_FLIGHT,
            ) as client:
                if all(result.endpoint != endpoint for result in results):
                    client.caption(images[0], **options)
                loop: Callable[..., ResultCollector] = closed_loop if kind == "closed" else open_loop
                run = partial(loop, client, itertools.cycle(images), options, level)
                run(arguments.seconds / 10)  # warm-up
                result = LoadResult(endpoint, kind, level)
                results.append(measure(result, partial(run, arguments.seconds), metrics_url(endpoint, port)))
            bar.update()
    return sorted(results, key=lambda result: (endpoints.index(result.endpoint), result.kind))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of this command."""
    parser = argparse.ArgumentParser(prog="python -m eval.load_test", description="Load endpoints and measure them.")
    parser.add_argument(
        "endpoints", nargs="+", help="URLs (REST) or host:port (gRPC), then generation options, e.g. beam_size=3"
    )
    parser.add_argument("--images", nargs="+", default=["samples/photos"], help="files, directories or patterns")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="clients of closed loops")
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="images per second of open loops")
    parser.add_argument("--seconds", type=float, default=10, help="duration of a level, after a warm-up of a tenth")
    parser.add_argument("--protocol", choices=["rest", "grpc"], default="rest")
    parser.add_argument("--model", default="captioner", help="name of the model at the endpoints")
    parser.add_argument(
        "--metrics-ports", type=int, nargs="+", default=[8082], help="one for all endpoints or one each"
    )
    parser.add_argument("--timeout", type=float, default=60, help="seconds per request")
    add_token_argument(parser)
    parser.add_argument("--name", default="load-test", help="name below eval/results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of all results")
    return parser


def main() -> None:
    """Run the command."""
    arguments = build_parser().parse_intermixed_args()
    endpoints = [word for word in arguments.endpoints if "=" not in word]
    with cli_errors():
        options = parse_key_values(word for word in arguments.endpoints if "=" in word)
        images = [Path(path).read_bytes() for path in find_images(arguments.images)]
        results = run_levels(arguments, endpoints, options, images)
        directory = arguments.results / arguments.name
        directory.mkdir(parents=True, exist_ok=True)
        content = {"images": len(images), "options": options, "loads": [asdict(result) for result in results]}
        atomic_write_text(directory / "load-test.json", json.dumps(content, indent=2) + "\n")
        atomic_write_text(directory / "load-test.md", format_results(results) + "\n")
        plot_results(results, directory / "load-test.png")
    print(f"{format_results(results)}\n\nPlot: {directory / 'load-test.png'}")


if __name__ == "__main__":
    main()

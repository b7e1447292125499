"""Loads running endpoints with real pictures: throughput, latency, errors, and the server's own stage times.

python -m eval.load_test http://127.0.0.1:8080 --concurrency 1 4 16
python -m eval.load_test http://127.0.0.1:8080 --rates 5 10 20 --pictures ../shared/data/coco/val2017 beam_size=3
python -m eval.load_test http://127.0.0.1:8080 http://127.0.0.1:9080 --name both

Two kinds of load. In a *closed loop* so many callers each send a picture as soon as the last one is answered: it shows
the most that a server can do, but a server that stalls stalls its callers, too, and hides it. In an *open loop*
pictures come at a fixed rate whatever the server does, and a latency counts from the moment at which the picture was to
be sent: none of the waiting is omitted ("coordinated omission").
"""

import argparse
import itertools
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
from tqdm import tqdm

from eval.caption import find_images
from eval.client import Client, EndpointError
from eval.run import parse_options
from eval.summary import RESULTS

PERCENTILES = (50, 95, 99)
SENDERS = 256  # requests of an open loop at once, at most
STAGES = ("decode", "encode", "search")


@dataclass
class Load:
    """What one level of load gave.

    Attributes:
        endpoint: which.
        kind: `closed` or `open`.
        level: callers of a closed loop, pictures a second of an open one.
        seconds: it lasted.
        answered: captions.
        errors: by type.
        throughput: captions a second.
        latency_ms: p50, p95, p99 and the longest; of an open loop from the moment a picture was to be sent.
        stages_ms: the server's own means, by stage, a request or a batch; empty where it tells none.
        batch: pictures that the server decoded together, the mean; None where it does not tell.
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


class Tally:
    """Counts answers, from many threads."""

    def __init__(self):
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()
        self.lock = threading.Lock()

    def ask(self, client: Client, picture: bytes, options: dict[str, Any], due: float) -> None:
        """Asks for a caption; its latency counts from `due`, a time of `perf_counter`."""
        try:
            client.caption(picture, **options)
            error = None
        except EndpointError as refused:
            error = refused.type
        except Exception as fault:  # of this program: it is no answer either
            error = type(fault).__name__
        seconds = time.perf_counter() - due
        with self.lock:
            if error:
                self.errors[error] += 1
            else:
                self.latencies.append(seconds)


def closed_loop(
    client: Client, pictures: Iterator[bytes], options: dict[str, Any], callers: int, seconds: float
) -> Tally:
    """So many callers, each with one request at a time, for so many seconds."""
    tally, end, lock = Tally(), time.perf_counter() + seconds, threading.Lock()

    def call() -> None:
        while time.perf_counter() < end:
            with lock:
                picture = next(pictures)
            tally.ask(client, picture, options, time.perf_counter())

    threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def open_loop(client: Client, pictures: Iterator[bytes], options: dict[str, Any], rate: float, seconds: float) -> Tally:
    """So many pictures a second, for so many seconds, evenly spaced; all answers are awaited."""
    tally, began = Tally(), time.perf_counter()
    with ThreadPoolExecutor(SENDERS) as pool:
        for number in range(max(1, round(rate * seconds))):
            due = began + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            pool.submit(tally.ask, client, next(pictures), options, due)
    return tally


def measure(load: Load, run: Callable[[], Tally], metrics: str | None) -> Load:
    """Puts what a load gave into it, with the growth of the server's own metrics meanwhile."""
    before, began = read_metrics(metrics), time.perf_counter()
    tally = run()
    load.seconds = time.perf_counter() - began
    after = read_metrics(metrics)
    load.answered, load.errors = len(tally.latencies), dict(tally.errors)
    load.throughput = load.answered / load.seconds
    if tally.latencies:
        load.latency_ms = {f"p{p}": 1000 * float(np.percentile(tally.latencies, p)) for p in PERCENTILES}
        load.latency_ms["max"] = 1000 * max(tally.latencies)

    if before is None or after is None:
        return load

    def grown(name: str) -> float:
        return max(0.0, after.get(name, 0.0) - before.get(name, 0.0))  # a server that was started anew begins at 0

    for stage in STAGES:
        if count := grown(f"captioner_{stage}_seconds_count"):
            load.stages_ms[stage] = 1000 * grown(f"captioner_{stage}_seconds_sum") / count
    if count := grown("captioner_batch_images_count"):
        load.batch = grown("captioner_batch_images_sum") / count
    return load


def read_metrics(url: str | None) -> dict[str, float] | None:
    """The handler's metrics, their labels summed up; None where the server's page can't be read."""
    found: Counter[str] = Counter()
    try:
        answer = requests.get(f"{url}/metrics", timeout=5)
        answer.raise_for_status()
        for line in answer.text.splitlines():
            if line.startswith("captioner_"):
                name, _, value = line.rpartition(" ")
                found[name.partition("{")[0]] += float(value)
    except (requests.RequestException, ValueError):
        return None
    return dict(found)


def table(loads: Sequence[Load]) -> str:
    """A row for each level, as Markdown."""
    columns = ["endpoint", "load", "captions/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors", "batch"]
    columns += [f"{stage} ms" for stage in STAGES]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for load in loads:
        callers = "caller" if load.level == 1 else "callers"
        name = f"{load.level:g} {callers}" if load.kind == "closed" else f"{load.level:g} a second"
        latencies = [
            f"{load.latency_ms[key]:.0f}" if key in load.latency_ms else "–" for key in ("p50", "p95", "p99", "max")
        ]
        errors = ", ".join(f"{count} {kind}" for kind, count in load.errors.items()) or "0"
        stages = [f"{load.stages_ms[stage]:.1f}" if stage in load.stages_ms else "–" for stage in STAGES]
        batch = "–" if load.batch is None else f"{load.batch:.1f}"
        cells = [load.endpoint, name, f"{load.throughput:.1f}", *latencies, errors, batch, *stages]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(loads: Sequence[Load], path: Path) -> None:
    """Latency over throughput, a line for each endpoint and kind of load."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for (endpoint, kind), some in itertools.groupby(loads, lambda load: (load.endpoint, load.kind)):
        shown = [load for load in some if load.latency_ms]
        for percentile, style in (("p50", "-o"), ("p95", "--o")):
            axes.plot(
                [load.throughput for load in shown], [load.latency_ms[percentile] for load in shown], style,
                label=f"{endpoint}, {kind} loop, {percentile}", markersize=4,
            )  # fmt: skip
    axes.set(xlabel="captions a second", ylabel="latency, ms", ylim=(0, None), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def metrics_address(endpoint: str, port: int) -> str:
    """Where the server of an endpoint tells its metrics: on its own host, at TorchServe's port for them."""
    host = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").hostname
    return f"http://{host}:{port}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Loads running endpoints and measures them.")
    parser.add_argument(
        "endpoints", nargs="+", help="URLs (REST) or host:port (gRPC), then options such as beam_size=3"
    )
    parser.add_argument("--pictures", nargs="+", default=["samples/photos"], help="files, folders or patterns")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="callers of closed loops")
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="pictures a second of open loops")
    parser.add_argument("--seconds", type=float, default=10, help="for each level, after a warm-up of a tenth of it")
    parser.add_argument("--protocol", choices=["rest", "grpc"], default="rest")
    parser.add_argument("--model", default="captioner", help="its name at the endpoints")
    parser.add_argument("--metrics-ports", type=int, nargs="+", default=[8082], help="of all endpoints, or one each")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for a request")
    parser.add_argument("--token", default=os.environ.get("CAPTIONER_TOKEN"), help="or in CAPTIONER_TOKEN")
    parser.add_argument("--name", default="bench", help="its results go to eval/results/<name>")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of all results")
    arguments = parser.parse_intermixed_args()
    endpoints = [word for word in arguments.endpoints if "=" not in word]
    loads: list[Load] = []
    try:
        options = parse_options([word for word in arguments.endpoints if "=" in word])
        pictures = [Path(path).read_bytes() for path in find_images(arguments.pictures)]
        levels = [("closed", level) for level in arguments.concurrency] + [("open", rate) for rate in arguments.rates]
        if any(level <= 0 for _, level in levels) or not levels or not endpoints:
            raise ValueError("There has to be an endpoint, and each level of load is above 0.")
        ports = arguments.metrics_ports * (len(endpoints) if len(arguments.metrics_ports) == 1 else 1)
        with tqdm(total=len(endpoints) * len(levels), desc="loading", unit="level") as bar:
            for kind, level in levels:  # side by side, so that what else the machine does meets all endpoints alike
                for endpoint, port in zip(endpoints, ports, strict=True):
                    metrics = metrics_address(endpoint, port)
                    with Client(
                        endpoint, protocol=arguments.protocol, model=arguments.model, timeout=arguments.timeout,
                        retries=0, token=arguments.token, concurrency=SENDERS,
                    ) as client:  # fmt: skip
                        if not any(load.endpoint == endpoint for load in loads):
                            client.caption(pictures[0], **options)  # an endpoint that can't is not measured
                        loop = closed_loop if kind == "closed" else open_loop

                        run = partial(loop, client, itertools.cycle(pictures), options, level)
                        run(arguments.seconds / 10)
                        load = Load(endpoint, kind, level)
                        loads.append(measure(load, partial(run, arguments.seconds), metrics))
                    bar.update()
        loads.sort(key=lambda load: (endpoints.index(load.endpoint), load.kind))
        folder = arguments.results / arguments.name
        folder.mkdir(parents=True, exist_ok=True)
        content = {"pictures": len(pictures), "options": options, "loads": [asdict(load) for load in loads]}
        (folder / "bench.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / "bench.md").write_text(table(loads) + "\n", encoding="utf-8")
        plot(loads, folder / "bench.png")
    except (OSError, ModuleNotFoundError, ValueError, EndpointError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    print(f"{table(loads)}\n\nThe plot is {folder / 'bench.png'}.")


if __name__ == "__main__":
    main()

"""Load the servers of several variants in turn, round after round, so that other load affects all alike."""

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deploy.benchmark.offline import InProcess
from deploy.benchmark.variants import Variant, repack
from deploy.isolated_server import isolated_server
from deploy.torchserve import TorchServe, is_jvm
from eval.client import Client
from eval.load_test import LoadResult, closed_loop, measure
from eval.markdown import markdown_table

WARM_UP_SHARE = 0.2  # duration of the first round, which does not count, relative to the others


@dataclass
class VariantResult:
    """Measurements of a variant.

    Attributes:
        variant: Name of the variant.
        startup_seconds: Time from the start of TorchServe to READY.
        worker_rss_mb: Resident memory of all workers after the load, in MB.
        loads: Results by number of clients, one per round.
        in_process: Captions per second of the same model without a server, one per round; may be empty.
    """

    variant: str
    startup_seconds: float = 0.0
    worker_rss_mb: float = 0.0
    loads: dict[int, list[LoadResult]] = field(default_factory=dict)
    in_process: list[float] = field(default_factory=list)

    def throughput(self, num_clients: int) -> float:
        """Captions per second, the median of the rounds."""
        return statistics.median(load.throughput for load in self.loads[num_clients])

    def latency(self, num_clients: int, percentile: str = "p50") -> float:
        """Latency in milliseconds, the median of the rounds."""
        return statistics.median(load.latency_ms[percentile] for load in self.loads[num_clients])


@dataclass(frozen=True)
class Plan:
    """Settings of a benchmark.

    Attributes:
        concurrency: Numbers of clients of the closed loops.
        seconds: Duration of a loop.
        rounds: Number of loops per variant and number of clients.
        in_process: Whether to measure the model without a server, too, for variants with the usual entry point.
    """

    concurrency: Sequence[int]
    seconds: float
    rounds: int
    in_process: bool = False


@dataclass(frozen=True)
class _Candidate:
    """A running variant."""

    result: VariantResult
    server: TorchServe
    client: Client
    in_process: InProcess | None


def measure_variants(
    archive: Path,
    directory: Path,
    variants: Sequence[Variant],
    images: Sequence[bytes],
    options: Mapping[str, Any],
    plan: Plan,
) -> list[VariantResult]:
    """Start a server for each variant and load them in turn.

    Args:
        archive: Archive of the bundle.
        directory: Directory for the files of the servers.
        variants: Variants with different names.
        images: Encoded images.
        options: Generation options, as in a request.
        plan: Settings.

    Raises:
        ServerError: If a server does not start.
        EndpointError: If a server does not caption an image before the load.
        RuntimeError: If requests fail under load.
    """
    with ExitStack() as stack:
        candidates = [
            _start(stack, archive, directory / str(number), variant, images[0], options, plan)
            for number, variant in enumerate(variants)
        ]
        num_in_process = sum(candidate.in_process is not None for candidate in candidates)
        loops = (plan.rounds + 1) * (len(candidates) * len(plan.concurrency) + num_in_process)
        with tqdm(total=loops, desc="loading", unit="loop") as bar:
            _run_round(candidates, images, options, plan, WARM_UP_SHARE * plan.seconds, bar, record=False)
            for _ in range(plan.rounds):
                _run_round(candidates, images, options, plan, plan.seconds, bar, record=True)
        for candidate in candidates:
            candidate.result.worker_rss_mb = _worker_rss_mb(candidate.server)
    return [candidate.result for candidate in candidates]


def _start(
    stack: ExitStack,
    archive: Path,
    directory: Path,
    variant: Variant,
    image: bytes,
    options: Mapping[str, Any],
    plan: Plan,
) -> _Candidate:
    model_store = directory / "model_store"
    model_store.mkdir(parents=True)
    repack(archive, model_store / archive.name, variant)
    server = isolated_server(directory, model_store)
    stack.callback(server.stop)
    start = time.perf_counter()
    server.start()
    result = VariantResult(variant.name, startup_seconds=time.perf_counter() - start)
    client = stack.enter_context(Client(server.inference, retries=0, concurrency=max(plan.concurrency)))
    client.caption(image, **options)
    in_process = None
    if plan.in_process and not variant.entry:
        in_process = InProcess(model_store / archive.name, directory / "in_process", options)
    return _Candidate(result, server, client, in_process)


def _run_round(
    candidates: Sequence[_Candidate],
    images: Sequence[bytes],
    options: Mapping[str, Any],
    plan: Plan,
    seconds: float,
    bar: "tqdm[Any]",
    *,
    record: bool,
) -> None:
    """Run every loop once; the results of a warm-up round are not recorded."""
    for num_clients, candidate in itertools.product(plan.concurrency, candidates):
        run = partial(closed_loop, candidate.client, itertools.cycle(images), dict(options), num_clients, seconds)
        load = measure(LoadResult(candidate.server.inference, "closed", num_clients), run, candidate.server.metrics)
        if load.errors:
            raise RuntimeError(f"Requests to {candidate.result.variant} failed: {load.errors}.")
        if record:
            candidate.result.loads.setdefault(num_clients, []).append(load)
        bar.update()
    for candidate in candidates:
        if candidate.in_process is not None:
            throughput = candidate.in_process.throughput(images, seconds)
            if record:
                candidate.result.in_process.append(throughput)
            bar.update()


def _worker_rss_mb(server: TorchServe) -> float:
    workers = [process for process in server.processes() if not is_jvm(process)]
    return sum(worker.memory_info().rss for worker in workers) / 2**20


def to_markdown(results: Sequence[VariantResult], concurrency: Sequence[int]) -> str:
    """Format a Markdown table with a row per variant; the columns × are ratios to the first variant."""
    stage_names = ("decode", "encode", "search")
    columns = ["variant", "start s", "worker MB"]
    for num_clients in concurrency:
        columns += [f"captions/s at {num_clients}", "×", "p50 ms", "×", "p95 ms"]
    columns += [*(f"{stage} ms" for stage in stage_names), "in one process", "served"]
    first, rows = results[0], []
    for result in results:
        cells = [result.variant, f"{result.startup_seconds:.1f}", f"{result.worker_rss_mb:.0f}"]
        for num_clients in concurrency:
            throughput, latency = result.throughput(num_clients), result.latency(num_clients)
            cells += [f"{throughput:.1f}", f"{throughput / first.throughput(num_clients):.2f}"]
            cells += [f"{latency:.0f}", f"{latency / first.latency(num_clients):.2f}"]
            cells.append(f"{result.latency(num_clients, 'p95'):.0f}")
        stages_ms = result.loads[concurrency[-1]][-1].stages_ms
        cells += [f"{stages_ms[stage]:.1f}" if stage in stages_ms else "–" for stage in stage_names]
        if result.in_process:
            in_process = statistics.median(result.in_process)
            cells += [f"{in_process:.1f}", f"{result.throughput(concurrency[-1]) / in_process:.0%}"]
        else:
            cells += ["–", "–"]
        rows.append(cells)
    return markdown_table(columns, rows)

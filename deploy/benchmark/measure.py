"""Loads servers of several variants in turn, round after round, so that what else the machine does meets all alike."""

import itertools
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deploy.benchmark.offline import InProcess
from deploy.benchmark.variants import Variant, repack
from deploy.testing import isolated_server
from deploy.torchserve import TorchServe
from eval.client import Client
from eval.load_test import Load, closed_loop, measure


@dataclass
class Measured:
    """What a variant gave.

    Attributes:
        variant: its name.
        start: seconds from TorchServe's start to READY.
        memory: resident megabytes of its workers after the load, together.
        loads: by the number of callers, one a round.
        in_process: captions a second of the same model in one process, one a round; none where that was not measured.
    """

    variant: str
    start: float = 0.0
    memory: float = 0.0
    loads: dict[int, list[Load]] = field(default_factory=dict)
    in_process: list[float] = field(default_factory=list)

    def throughput(self, callers: int) -> float:
        """Captions a second, the median of the rounds."""
        return statistics.median(load.throughput for load in self.loads[callers])

    def latency(self, callers: int, percentile: str = "p50") -> float:
        """Milliseconds, the median of the rounds."""
        return statistics.median(load.latency_ms[percentile] for load in self.loads[callers])


def measure_variants(
    archive: Path,
    folder: Path,
    variants: Sequence[Variant],
    pictures: Sequence[bytes],
    options: dict[str, Any],
    *,
    concurrency: Sequence[int],
    seconds: float,
    rounds: int,
    in_process: bool = False,
) -> list[Measured]:
    """Starts a server for each variant, and loads them in turn.

    Args:
        archive: of the bundle.
        folder: for the servers' files.
        variants: names have to differ.
        pictures: image files.
        options: of the endpoint.
        concurrency: callers of closed loops.
        seconds: of each loop.
        rounds: loops for each variant and number of callers.
        in_process: measure the model in one process, too, for each variant with the handler's own entry.

    Raises:
        ServerError: a variant's server does not come up.
        EndpointError: or does not caption.
    """
    found = [Measured(variant.name) for variant in variants]
    with ExitStack() as stack:
        servers, clients, alone = [], [], []
        for number, (variant, measured) in enumerate(zip(variants, found, strict=True)):
            store = folder / str(number) / "model_store"
            store.mkdir(parents=True)
            repack(archive, store / archive.name, variant)
            server = isolated_server(store.parent, store)
            stack.callback(server.stop)
            began = time.perf_counter()
            server.start()
            measured.start = time.perf_counter() - began
            servers.append(server)
            clients.append(stack.enter_context(Client(server.inference, retries=0, concurrency=max(concurrency))))
            clients[-1].caption(pictures[0], **options)
            if in_process and not variant.entry:
                alone.append((measured, InProcess(store / archive.name, store.parent / "in_process", options)))
        loops = (rounds + 1) * (len(found) * len(concurrency) + len(alone))
        with tqdm(total=loops, desc="loading", unit="loop") as bar:
            for round_ in range(-1, rounds):  # the first one warms up
                time_ = seconds if round_ >= 0 else seconds / 5
                for callers, (measured, server, client) in itertools.product(
                    concurrency, zip(found, servers, clients, strict=True)
                ):
                    run = partial(closed_loop, client, itertools.cycle(pictures), options, callers, time_)
                    load = measure(Load(server.inference, "closed", callers), run, server.metrics)
                    if load.errors:
                        raise RuntimeError(f"{measured.variant} answered {load.errors}.")
                    if round_ >= 0:
                        measured.loads.setdefault(callers, []).append(load)
                    bar.update()
                for measured, model in alone:
                    throughput = model.throughput(pictures, time_)
                    if round_ >= 0:
                        measured.in_process.append(throughput)
                    bar.update()
        for measured, server in zip(found, servers, strict=True):
            measured.memory = _memory(server)
    return found


def _memory(server: TorchServe) -> float:
    workers = [process for process in server.processes() if any("model_service_worker" in a for a in process.cmdline())]
    return sum(process.memory_info().rss for process in workers) / 2**20


def table(found: Sequence[Measured], concurrency: Sequence[int]) -> str:
    """A row for each variant, as Markdown, with what the first one's figures are taken times."""
    columns = ["variant", "start s", "worker MB"]
    for callers in concurrency:
        columns += [f"captions/s at {callers}", "×", "p50 ms", "×", "p95 ms"]
    columns += [f"{stage} ms" for stage in ("decode", "encode", "search")] + ["in one process", "served"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    first = found[0]
    for measured in found:
        cells = [measured.variant, f"{measured.start:.1f}", f"{measured.memory:.0f}"]
        for callers in concurrency:
            throughput, latency = measured.throughput(callers), measured.latency(callers)
            cells += [
                f"{throughput:.1f}", f"{throughput / first.throughput(callers):.2f}",
                f"{latency:.0f}", f"{latency / first.latency(callers):.2f}", f"{measured.latency(callers, 'p95'):.0f}",
            ]  # fmt: skip
        stages = measured.loads[concurrency[-1]][-1].stages_ms
        cells += [f"{stages[stage]:.1f}" if stage in stages else "–" for stage in ("decode", "encode", "search")]
        if measured.in_process:
            alone = statistics.median(measured.in_process)
            cells += [f"{alone:.1f}", f"{measured.throughput(concurrency[-1]) / alone:.0%}"]
        else:
            cells += ["–", "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

"""Run a soak test: load a private server with mixed requests and look for lost or wrong responses and for growth.

python -m deploy.soak --minutes 30
python -m deploy.soak --model pretrained --minutes 480 --clients 16 --interval 15

It exits with 1 if a response was lost, wrong or 5xx, if a worker was restarted, if responses get slower, or if memory,
open files, threads or processes grow; `GROWTH_LIMITS` in deploy/soak/limits.py defines growth.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from deploy.archive import build_archive
from deploy.cli import add_bundle_arguments, add_result_arguments, read_images
from deploy.isolated_server import isolated_server
from deploy.soak.limits import failures
from deploy.soak.load import SoakLoad
from deploy.soak.monitor import ResourceMonitor
from deploy.soak.report import plot, summarize, to_markdown
from deploy.soak.request_mix import sample_requests
from deploy.torchserve import ServerError
from eval.cli import cli_errors
from handler.errors import BundleError


@dataclass(frozen=True)
class Plan:
    """Settings of a soak test.

    Attributes:
        minutes: Duration.
        clients: Number of concurrent requests.
        interval: Seconds from one resource sample to the next.
        requests: Number of different requests.
        seed: Seed of the requests.
    """

    minutes: float
    clients: int
    interval: float
    requests: int
    seed: int


def soak(model: Path, images: list[bytes], plan: Plan, results: Path) -> dict[str, Any]:
    """Run a soak test and write `soak.json`, `soak.md` and `soak.png`.

    Args:
        model: Bundle directory.
        images: Encoded images.
        plan: Settings.
        results: Output directory.

    Returns:
        The content of `soak.json`.

    Raises:
        BundleError: If the bundle is damaged.
        ServerError: If the server does not start, or does not respond as expected without load.
    """
    with tempfile.TemporaryDirectory(prefix="captioner-soak-") as scratch:
        directory = Path(scratch)
        build_archive(model, directory / "model_store")
        server = isolated_server(directory, directory / "model_store")
        try:
            server.start()
            cases = sample_requests(images, plan.requests, Random(plan.seed))  # noqa: S311 - reproducible, not secret
            load = SoakLoad(server, cases, plan.clients)
            with load, ResourceMonitor(server, plan.interval) as monitor:
                load.wait(60 * plan.minutes)
        finally:
            server.stop()
    start, end = load.started_at, load.finished_at
    report = summarize(monitor.samples, load.results, start, end, len(monitor.workers), monitor.unready)
    samples = [sample._replace(at=round(sample.at - start, 2))._asdict() for sample in monitor.samples]
    content = {"cores": os.cpu_count(), "plan": asdict(plan)} | report
    content |= {"failures": failures(report), "samples": samples}
    results.mkdir(parents=True, exist_ok=True)
    (results / "soak.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (results / "soak.md").write_text(to_markdown(content) + "\n", encoding="utf-8")
    plot(monitor.samples, load.results, start, results / "soak.png")
    return content


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.soak", description="Load a private server with mixed requests for a long time."
    )
    add_bundle_arguments(parser)
    parser.add_argument("--minutes", type=float, default=30, help="duration (default: 30)")
    parser.add_argument("--clients", type=int, default=8, help="concurrent requests (default: 8)")
    parser.add_argument("--interval", type=float, default=5, help="seconds between resource samples (default: 5)")
    parser.add_argument("--requests", type=int, default=120, help="different requests, sent in turn (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the requests (default: 0)")
    add_result_arguments(parser, name="soak")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server is stopped
    plan = Plan(arguments.minutes, arguments.clients, arguments.interval, arguments.requests, arguments.seed)
    with cli_errors(BundleError, ServerError):
        images = list(read_images(arguments).values())
        content = soak(arguments.model, images, plan, arguments.results / arguments.name)
    print(to_markdown(content))
    if content["failures"]:
        sys.exit("\n".join(content["failures"]))


if __name__ == "__main__":
    main()

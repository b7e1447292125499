"""Run two servers behind HAProxy under load: throughput, a kill, a canary and its roll-back, a rolling upgrade.

python -m deploy.demo
python -m deploy.demo --images ../shared/data/coco/val2017 --next runs/transformer-lite2-flickr8k/bundle

It exits with 1 if a request was lost or a caption was wrong.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy.archive import build_archive
from deploy.cli import add_bundle_arguments, add_result_arguments, read_images
from deploy.demo.cluster import Cluster
from deploy.demo.scenarios import NEW, OLD, ScenarioResult, Scenarios
from deploy.torchserve import ServerError
from eval.cli import cli_errors
from eval.markdown import markdown_table
from handler.errors import BundleError

COLUMNS = (
    "scenario",
    "requests",
    "captions/s",
    "slowest s",
    "by version",
    "proxy retries",
    "client errors",
    "lost",
    "wrong",
    "measured",
)


def to_markdown(results: Sequence[ScenarioResult]) -> str:
    """Format the results as a Markdown table."""
    rows = []
    for result in results:
        versions = ", ".join(f"{version}: {count}" for version, count in sorted(result.versions.items()))
        errors = ", ".join(f"{count} × {error}" for error, count in result.client_errors.items()) or "0"
        measured = [f"{name}: {value:.3g}" for name, value in result.figures.items()]
        measured += [result.failure] if result.failure else []
        rows.append(
            [
                result.name,
                result.requests,
                f"{result.throughput:.1f}",
                f"{result.slowest:.1f}",
                versions,
                result.proxy_retries,
                errors,
                result.lost,
                result.wrong,
                "; ".join(measured),
            ]
        )
    return markdown_table(COLUMNS, rows)


def run(arguments: argparse.Namespace, images: dict[str, bytes]) -> list[ScenarioResult]:
    """Build the archives and run all scenarios; errors as in `Cluster` and `Scenarios`."""
    with tempfile.TemporaryDirectory(prefix="captioner-demo-") as scratch:
        directory = Path(scratch)
        old = build_archive(arguments.model, directory / "old.mar", OLD)
        new = build_archive(arguments.next or arguments.model, directory / "new.mar", NEW)
        with Cluster(directory, old) as cluster:
            return Scenarios(cluster, new, images, arguments.clients, arguments.seconds, arguments.canary).run()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.demo", description="Run two servers behind HAProxy through failures and upgrades."
    )
    add_bundle_arguments(parser)
    parser.add_argument("--next", type=Path, help=f"bundle of version {NEW} (default: the same bundle)")
    parser.add_argument("--clients", type=int, default=8, help="concurrent requests (default: 8)")
    parser.add_argument("--seconds", type=float, default=30, help="seconds per throughput measurement (default: 30)")
    parser.add_argument("--canary", type=int, default=300, help="minimum requests of the canary (default: 300)")
    add_result_arguments(parser, name="demo")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers are stopped
    with cli_errors(BundleError, ServerError):
        images = read_images(arguments)
        results = run(arguments, images)
        directory = arguments.results / arguments.name
        directory.mkdir(parents=True, exist_ok=True)
        content = {
            "cores": os.cpu_count(),
            "images": len(images),
            "clients": arguments.clients,
            "scenarios": [vars(result) | {"throughput": result.throughput} for result in results],
        }
        (directory / "demo.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (directory / "demo.md").write_text(to_markdown(results) + "\n", encoding="utf-8")
    print(to_markdown(results))
    if failures := [f"{result.name}: {result.failure}" for result in results if result.failure]:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()

"""Compare ways to serve a bundle side by side, or find the best settings for this machine.

python -m deploy.benchmark --variants baseline default eager fastest
python -m deploy.benchmark --images ../shared/data/coco/val2017 beam_size=3
python -m deploy.benchmark --tune --name autotune
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from deploy.archive import build_archive
from deploy.benchmark.measure import Plan, VariantResult, measure_variants, to_markdown
from deploy.benchmark.plot import plot
from deploy.benchmark.variants import VARIANTS, Variant, grid
from deploy.cli import add_bundle_arguments, add_result_arguments, read_images
from deploy.torchserve import ServerError
from eval.cli import cli_errors
from eval.files import parse_key_values
from handler.errors import BundleError, RequestError

NEAR_BEST = 0.95  # of the highest throughput; smaller differences are noise


def recommended(results: Sequence[VariantResult], num_clients: int) -> VariantResult:
    """Return the variant with the lowest latency for one client among those with nearly the highest throughput."""
    highest = max(result.throughput(num_clients) for result in results)
    near_best = [result for result in results if result.throughput(num_clients) >= NEAR_BEST * highest]
    return min(near_best, key=lambda result: result.latency(1))


def print_recommendation(results: Sequence[VariantResult], variants: Sequence[Variant], num_clients: int) -> None:
    """Print the settings of the recommended variant as YAML."""
    best = recommended(results, num_clients)
    [settings] = [variant.settings for variant in variants if variant.name == best.variant]
    print(f"\nBest settings for {num_clients} clients on this machine, for handler/model-config.yaml:\n")
    print(yaml.safe_dump(dict(settings), sort_keys=False), end="")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.benchmark", description="Compare ways to serve a bundle side by side."
    )
    parser.add_argument("options", nargs="*", help="generation options, e.g. beam_size=3")
    add_bundle_arguments(parser)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["baseline", "default"])
    parser.add_argument("--tune", action="store_true", help="measure workers × threads, batch sizes and delays instead")
    parser.add_argument("--concurrency", type=int, default=16, help="clients, besides a single one (default: 16)")
    parser.add_argument("--seconds", type=float, default=6, help="duration of a loop (default: 6)")
    parser.add_argument("--rounds", type=int, default=3, help="loops per variant and number of clients (default: 3)")
    add_result_arguments(parser, name="variants")
    arguments = parser.parse_intermixed_args()
    variants = grid() if arguments.tune else [VARIANTS[name] for name in arguments.variants]
    plan = Plan([1, arguments.concurrency], arguments.seconds, arguments.rounds, in_process=not arguments.tune)
    with cli_errors(BundleError, ServerError, RequestError, RuntimeError):
        images = list(read_images(arguments).values())
        options = parse_key_values(arguments.options)
        with tempfile.TemporaryDirectory() as scratch:
            archive = build_archive(arguments.model, Path(scratch))
            results = measure_variants(archive, Path(scratch), variants, images, options, plan)
    arguments.results.mkdir(parents=True, exist_ok=True)
    output = arguments.results / arguments.name
    content = {"cores": os.cpu_count(), "options": arguments.options, "variants": [asdict(one) for one in results]}
    table = to_markdown(results, plan.concurrency)
    Path(f"{output}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    Path(f"{output}.md").write_text(table + "\n", encoding="utf-8")
    plot(results, plan.concurrency, Path(f"{output}.svg"))
    print(table)
    if arguments.tune:
        print_recommendation(results, variants, arguments.concurrency)


if __name__ == "__main__":
    main()

"""Measures ways to serve a bundle, side by side; or finds the best settings for this machine.

python -m deploy.benchmark --pictures ../shared/data/coco/val2017 --variants baseline default eager fast
python -m deploy.benchmark --tune
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import yaml

from deploy.archive import build_archive
from deploy.benchmark.measure import Measured, measure_variants, table
from deploy.benchmark.plot import plot
from deploy.benchmark.variants import VARIANTS, grid
from deploy.torchserve import ServerError
from eval.caption import find_images
from eval.run import parse_options
from eval.summary import RESULTS
from eval.transports import EndpointError
from handler.errors import BundleError, RequestError

ROOT = Path(__file__).parent.parent.parent
AS_GOOD = 0.95  # of the most captions a second: what is within the noise of the best


def recommended(found: list[Measured], callers: int) -> Measured:
    """Of those that give about the most captions a second with so many callers, the one that is quickest for one."""
    most = max(measured.throughput(callers) for measured in found)
    return min(
        (measured for measured in found if measured.throughput(callers) >= AS_GOOD * most),
        key=lambda measured: measured.latency(1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures ways to serve a bundle, side by side.")
    parser.add_argument("options", nargs="*", help="options of the endpoint, such as beam_size=3")
    parser.add_argument("--model", type=Path, default=ROOT / "pretrained", help="the bundle's folder")
    parser.add_argument("--pictures", nargs="+", default=[str(ROOT / "samples" / "photos")], help="files or folders")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["baseline", "default"])
    parser.add_argument("--tune", action="store_true", help="measure workers × threads, batch and delay instead")
    parser.add_argument("--concurrency", type=int, default=16, help="callers at once; one alone is measured, too")
    parser.add_argument("--seconds", type=float, default=6, help="of each loop")
    parser.add_argument("--rounds", type=int, default=3, help="loops for each variant and number of callers")
    parser.add_argument("--name", default="variants", help="its results go to eval/results/<name>.json, .md and .svg")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of all results")
    arguments = parser.parse_intermixed_args()
    concurrency = [1, arguments.concurrency]
    variants = grid() if arguments.tune else [VARIANTS[name] for name in arguments.variants]
    try:
        pictures = [Path(path).read_bytes() for path in find_images(arguments.pictures)]
        with tempfile.TemporaryDirectory() as folder:
            found = measure_variants(
                build_archive(arguments.model, Path(folder)), Path(folder), variants, pictures,
                parse_options(arguments.options),
                concurrency=concurrency, seconds=arguments.seconds, rounds=arguments.rounds,
                in_process=not arguments.tune,
            )  # fmt: skip
    except (BundleError, ServerError, EndpointError, RequestError, OSError, ValueError, RuntimeError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    arguments.results.mkdir(parents=True, exist_ok=True)
    content = {"cores": os.cpu_count(), "options": arguments.options, "variants": [asdict(one) for one in found]}
    (arguments.results / f"{arguments.name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (arguments.results / f"{arguments.name}.md").write_text(table(found, concurrency) + "\n", encoding="utf-8")
    plot(found, concurrency, arguments.results / f"{arguments.name}.svg")
    print(table(found, concurrency))
    if arguments.tune:
        best = recommended(found, arguments.concurrency)
        [settings] = [variant.settings for variant in variants if variant.name == best.variant]
        print(f"\nBest here for {arguments.concurrency} callers, in handler/model-config.yaml:\n")
        print(yaml.safe_dump(dict(settings), sort_keys=False), end="")


if __name__ == "__main__":
    main()

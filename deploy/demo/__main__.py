"""Shows two servers behind HAProxy under load: throughput, one killed, a canary and its roll-back, a rolling upgrade.

python -m deploy.demo
python -m deploy.demo --pictures ../shared/data/coco/val2017 --next runs/transformer-lite2-flickr8k/bundle
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
from deploy.demo.cluster import Cluster
from deploy.demo.scenarios import NEW, OLD, Scene, Scenes
from deploy.torchserve import ServerError
from eval.caption import find_images
from eval.client import EndpointError
from eval.summary import RESULTS
from handler.errors import BundleError


def table(scenes: Sequence[Scene]) -> str:
    """A row for each scene, as Markdown."""
    columns = [
        "scene",
        "requests",
        "captions/s",
        "slowest s",
        "by version",
        "again by proxy",
        "by callers",
        "lost",
        "wrong",
    ]
    lines = [f"| {' | '.join([*columns, 'measured'])} |", "|---" * (len(columns) + 1) + "|"]
    for scene in scenes:
        versions = ", ".join(f"{version}: {count}" for version, count in sorted(scene.versions.items()))
        callers = ", ".join(f"{count} × {error}" for error, count in scene.by_callers.items()) or "0"
        measured = [f"{name}: {value:.3g}" for name, value in scene.figures.items()] + [scene.fault] * bool(scene.fault)
        cells = [
            scene.name,
            scene.requests,
            f"{scene.throughput:.1f}",
            f"{scene.slowest:.1f}",
            versions,
            scene.by_proxy,
        ]
        cells += [callers, scene.lost, scene.wrong, "; ".join(measured)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Shows two servers behind HAProxy under load, and what is done to them."
    )
    parser.add_argument("--bundle", type=Path, default=Path("pretrained"), help=f"what is served as {OLD}")
    parser.add_argument("--next", type=Path, help=f"what is served as {NEW}; the same bundle where it is left out")
    parser.add_argument("--pictures", nargs="+", default=["samples/photos"], help="files, folders or patterns")
    parser.add_argument("--callers", type=int, default=8, help="requests at once")
    parser.add_argument("--seconds", type=float, default=30, help="for each throughput, and the canary at least")
    parser.add_argument("--canary", type=int, default=300, help="requests that the canary is counted over, at least")
    parser.add_argument("--name", default="demo", help="its results go to eval/results/<name>")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of all results")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it leaves no server behind
    try:
        pictures = {path: Path(path).read_bytes() for path in find_images(arguments.pictures)}
        with tempfile.TemporaryDirectory(prefix="captioner-demo-") as scratch:
            folder = Path(scratch)
            old = build_archive(arguments.bundle, folder / "old.mar", OLD)
            new = build_archive(arguments.next or arguments.bundle, folder / "new.mar", NEW)
            with Cluster(folder, old) as cluster:
                scenes = Scenes(cluster, new, pictures, arguments.callers, arguments.seconds, arguments.canary)
                played = scenes.run()
        results = arguments.results / arguments.name
        results.mkdir(parents=True, exist_ok=True)
        content = {
            "cores": os.cpu_count(),
            "pictures": len(pictures),
            "callers": arguments.callers,
            "scenes": [vars(scene) | {"throughput": scene.throughput} for scene in played],
        }
        (results / "demo.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (results / "demo.md").write_text(table(played) + "\n", encoding="utf-8")
    except (BundleError, EndpointError, OSError, ServerError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    print(table(played))
    if faults := [f"{scene.name}: {scene.fault}" for scene in played if scene.fault]:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()

"""Loads a private server with mixed requests for long, and looks for what is lost, wrong, or grows.

python -m deploy.soak --minutes 30
python -m deploy.soak --model runs/mine/bundle --minutes 480 --callers 16 --every 15

It ends with 1 where an answer was lost, wrong or 5xx, where a worker was started anew, where answers get slower, or
where memory, open files, threads or processes grow; `GROWTH` in deploy/soak/report.py says from when on.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from deploy.archive import build_archive
from deploy.soak.load import Soak
from deploy.soak.monitor import Watch
from deploy.soak.report import faults, plot, summarize, table
from deploy.soak.request_mix import draw_wishes
from deploy.testing import isolated_server
from deploy.torchserve import ServerError
from eval.caption import find_images
from eval.summary import RESULTS
from handler.errors import BundleError


@dataclass(frozen=True)
class Plan:
    """How a soak is done.

    Attributes:
        minutes: it lasts.
        callers: requests at once.
        every: seconds from sample to sample.
        wishes: different requests.
        seed: of the requests.
    """

    minutes: float
    callers: int
    every: float
    wishes: int
    seed: int


def soak(model: Path, pictures: list[bytes], plan: Plan, results: Path) -> dict[str, Any]:
    """Does it, and writes `soak.json`, `soak.md` and `soak.png`.

    Returns:
        What `soak.json` holds.

    Raises:
        BundleError: the model is none.
        ServerError: the server does not come up, or does not answer as it has to when it does nothing else.
    """
    with tempfile.TemporaryDirectory(prefix="captioner-soak-") as scratch:
        folder = Path(scratch)
        build_archive(model, folder / "model_store")
        server = isolated_server(folder, folder / "model_store")
        try:
            server.start()
            load = Soak(server, draw_wishes(pictures, plan.wishes, Random(plan.seed)), plan.callers)  # noqa: S311
            with load, Watch(server, plan.every) as watch:
                load.wait(60 * plan.minutes)
        finally:
            server.stop()
    figures = summarize(watch.samples, load.answered, load.began, load.ended, len(watch.workers), watch.unready)
    samples = [sample._replace(at=round(sample.at - load.began, 2))._asdict() for sample in watch.samples]
    content = {"cores": os.cpu_count(), "plan": vars(plan)} | figures | {"faults": faults(figures), "samples": samples}
    results.mkdir(parents=True, exist_ok=True)
    (results / "soak.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (results / "soak.md").write_text(table(content) + "\n", encoding="utf-8")
    plot(watch.samples, load.answered, load.began, results / "soak.png")
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description="Loads a private server with mixed requests for long.")
    parser.add_argument("--model", type=Path, default=Path("pretrained"), help="the bundle's folder")
    parser.add_argument("--pictures", nargs="+", default=["samples/photos"], help="files, folders or patterns")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--callers", type=int, default=8, help="requests at once")
    parser.add_argument("--every", type=float, default=5, help="seconds from sample to sample")
    parser.add_argument("--wishes", type=int, default=120, help="different requests, asked for in turns")
    parser.add_argument("--seed", type=int, default=0, help="of the requests")
    parser.add_argument("--name", default="soak", help="its results go to eval/results/<name>")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of all results")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it leaves no server behind
    plan = Plan(arguments.minutes, arguments.callers, arguments.every, arguments.wishes, arguments.seed)
    try:
        pictures = [Path(path).read_bytes() for path in find_images(arguments.pictures)]
        content = soak(arguments.model, pictures, plan, arguments.results / arguments.name)
    except (BundleError, OSError, ServerError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    print(table(content))
    if content["faults"]:
        sys.exit("\n".join(content["faults"]))


if __name__ == "__main__":
    main()

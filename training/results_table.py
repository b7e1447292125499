"""Prints runs side by side, each phase's best epoch at beam 1 and 5: the table of README.md.

python -m training.results_table ../shared/data/flickr8k runs/*-lite2-flickr8k --keep training/results
python -m training.results_table ../shared/data/flickr8k training/results/*.json
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev

from tqdm import tqdm

from eval.coco import read_split
from handler.backends import ModelSource
from handler.bundle import load_bundle
from handler.captioner import Captioner
from handler.errors import BundleError
from handler.files import atomic_write_text
from training.data.feature_cache import cached_features
from training.validate import default_device, validate_bundle

BEAMS = (1, 5)
PHASES = {"cross_entropy": "cross-entropy", "self_critical": "then self-critical"}
COLUMNS = (
    *("decoder", "parameters", "training", "minutes", "beam"),
    *("B-1", "B-2", "B-3", "B-4", "METEOR", "ROUGE-L", "CIDEr", "bad endings", "seeds"),
)
METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")


def measure(run: Path, data: Path, features: Path) -> Iterator[dict]:
    """The results of a run's bundles at each beam; what was measured before is taken from `table.json` in the run.

    Args:
        run: its folder, or a file with its results, as `--keep` writes it.
        data: what it was trained on.
        features: where encoders' grids are kept.

    Yields:
        `decoder`, `model`, `phase`, `beam`, `seed`, `parameters`, `minutes`, and what `validate_bundle` gives.
    """
    if run.is_file():
        yield from json.loads(run.read_text(encoding="utf-8"))
        return
    kept = run / "table.json"
    known: dict[str, dict] = json.loads(kept.read_text()) if kept.exists() else {}
    for folder in (run / "bundle", *(run / f"bundle-{phase}" for phase in PHASES)):
        if not folder.exists():
            continue
        captioner = Captioner.load(folder, default_device())
        source = ModelSource(*load_bundle(folder)[:2], default_device(), "full")
        training = captioner.config.card["training"]
        phase = training["checkpoint"].removeprefix("best-")
        split = training["val_splits"][0]
        for beam in BEAMS:
            name = f"{captioner.config.digest}|{beam}"
            if name not in known:
                images = read_split(data, split)
                grids = cached_features(
                    features, source.build_encoder().encoder, captioner.config.preprocessing, images,
                    device=source.device,
                )  # fmt: skip
                options = replace(captioner.config.decoding, beam_size=beam)
                result, _ = validate_bundle(captioner, images, split, options, grids)
                known[name] = result
                atomic_write_text(kept, json.dumps(known, indent=1))
            yield known[name] | {
                "decoder": captioner.config.decoder.name,
                "model": captioner.config.card.get("name", run.name),
                "phase": phase,
                "beam": beam,
                "seed": training["seed"],
                "parameters": sum(p.numel() for p in captioner.decoder.parameters()),
                "minutes": training_minutes(run, phase),
            }


def training_minutes(run: Path, phase: str) -> float:
    """Minutes of a run's steps until the end of a phase: their number times each phase's median.

    So pauses do not count, nor what else the machine did meanwhile.
    """
    seconds: dict[str, list[float]] = {name: [] for name in list(PHASES)[: list(PHASES).index(phase) + 1]}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        step = json.loads(line)
        if "seconds" in step and step["phase"] in seconds:
            seconds[step["phase"]].append(step["seconds"])
    return sum(median(some) * len(some) for some in seconds.values() if some) / 60


def markdown(results: Sequence[dict]) -> str:
    """A row for each model, phase and beam; of several seeds the mean and, for CIDEr, the standard deviation."""
    rows: dict[tuple, list[dict]] = defaultdict(list)
    for result in results:
        rows[result["decoder"], result["model"], list(PHASES).index(result["phase"]), result["beam"]].append(result)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for (decoder, _, phase, beam), some in sorted(rows.items()):
        scores = [f"{100 * mean(result['scores'][name] for result in some):.1f}" for name in METRICS]
        if len(some) > 1:
            scores[-1] += f" ± {100 * stdev(result['scores']['CIDEr'] for result in some):.1f}"
        some = sorted(some, key=lambda result: result["seed"])
        minutes = ", ".join(f"{result['minutes']:.0f}" for result in some)  # they may be of several machines
        endings = f"{100 * mean(result['bad_endings'] for result in some):.1f} %"
        seeds = ", ".join(str(result["seed"]) for result in some)
        size = f"{some[0]['parameters'] / 1e6:.1f} M"
        cells = [f"`{decoder}`", size, list(PHASES.values())[phase], minutes, str(beam), *scores, endings, seeds]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints runs side by side.")
    parser.add_argument("data", type=Path, help="what they were trained on")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs that have ended, or files of their results")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write each run's results there, as <run>.json")
    parser.add_argument("--features", type=Path, default=Path("runs/features"), help="where encoders' grids are kept")
    arguments = parser.parse_args()
    try:
        results = []
        for run in tqdm(arguments.runs):
            rows = list(measure(run, arguments.data, arguments.features))
            if arguments.keep and rows and run.is_dir():
                arguments.keep.mkdir(parents=True, exist_ok=True)
                atomic_write_text(arguments.keep / f"{run.name}.json", json.dumps(rows, indent=1) + "\n")
            results += rows
    except (BundleError, OSError, ValueError) as error:
        sys.exit(str(error))
    if not results:
        sys.exit(f"None of {', '.join(map(str, arguments.runs))} holds a bundle: their trainings have not ended.")
    print(markdown(results))


if __name__ == "__main__":
    main()

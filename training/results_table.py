"""Print a table of runs: the best epoch of each phase, at beam size 1 and 5.

python -m training.results_table ../shared/data/flickr8k runs/*-lite2-flickr8k --save-to docs/data
python -m training.results_table ../shared/data/flickr8k docs/data/*-seed?.json
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from tqdm import tqdm

from eval.data import read_split
from eval.markdown import markdown_table
from handler.bundle import load_bundle
from handler.captioner import Captioner
from handler.cli import cli_errors
from handler.files import atomic_write_text
from handler.modeling.encoder import Encoder
from training.data.feature_cache import cached_features
from training.validate import default_device, validate_bundle

BEAM_SIZES = (1, 5)
PHASES = {"cross_entropy": "cross-entropy", "self_critical": "then self-critical"}
COLUMNS = (
    *("decoder", "parameters", "training", "minutes", "beam"),
    *("B-1", "B-2", "B-3", "B-4", "METEOR", "ROUGE-L", "CIDEr", "bad endings", "seeds"),
)
METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")

Result = dict[str, Any]


def collect_results(run: Path, data: Path, feature_cache: Path) -> Iterator[Result]:
    """Score the bundles of a run at each beam size. Earlier scores are read from `table.json` in the run.

    Args:
        run: Directory of a run, or a file of its results as `--save-to` writes it.
        data: Data that it was trained on.
        feature_cache: Directory of the feature cache.

    Yields:
        `decoder`, `model`, `phase`, `beam`, `seed`, `parameters`, `minutes`, and the result of `validate_bundle`.
    """
    if run.is_file():
        yield from json.loads(run.read_text(encoding="utf-8"))
        return
    for bundle in (run / "bundle", *(run / f"bundle-{phase}" for phase in PHASES)):
        if not bundle.exists():
            continue
        captioner = Captioner.load(bundle, default_device())
        training = captioner.config.card["training"]
        phase = training["checkpoint"].removeprefix("best-")
        for beam_size in BEAM_SIZES:
            yield _score(captioner, bundle, data, training["val_splits"][0], beam_size, feature_cache) | {
                "decoder": captioner.config.decoder.name,
                "model": captioner.config.card.get("name", run.name),
                "phase": phase,
                "beam": beam_size,
                "seed": training["seed"],
                "parameters": sum(parameter.numel() for parameter in captioner.decoder.parameters()),
                "minutes": training_minutes(run, phase),
            }


def _score(captioner: Captioner, bundle: Path, data: Path, split: str, beam_size: int, feature_cache: Path) -> Result:
    """Return the result of `validate_bundle`, from `table.json` if it is there."""
    saved = bundle.parent / "table.json"
    results: dict[str, Result] = json.loads(saved.read_text(encoding="utf-8")) if saved.exists() else {}
    name = f"{captioner.config.digest}|{beam_size}"
    if name not in results:
        images = read_split(data, split)
        encoder, preprocessing, device = _load_encoder(bundle), captioner.config.preprocessing, default_device()
        features = cached_features(feature_cache, encoder.to(device), preprocessing, images, device=device)
        options = replace(captioner.config.decoding, beam_size=beam_size)
        results[name], _ = validate_bundle(captioner, images, split, options, features)
        atomic_write_text(saved, json.dumps(results, indent=1))
    return results[name]


def _load_encoder(bundle: Path) -> Encoder:
    config, weights, _ = load_bundle(bundle)
    encoder = Encoder(config.encoder)
    prefix = "encoder."
    encoder.load_state_dict({name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)})
    return encoder.eval().requires_grad_(False)


def training_minutes(run: Path, phase: str) -> float:
    """Compute the minutes of all steps until the end of a phase: the number of steps times their median time.

    The median excludes pauses and other load on the machine.
    """
    seconds: dict[str, list[float]] = {name: [] for name in list(PHASES)[: list(PHASES).index(phase) + 1]}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        step = json.loads(line)
        if "seconds" in step and step["phase"] in seconds:
            seconds[step["phase"]].append(step["seconds"])
    return sum(median(times) * len(times) for times in seconds.values() if times) / 60


def format_table(results: Sequence[Result]) -> str:
    """Format results in Markdown: a row per model, phase and beam size.

    Several seeds share a row with their mean scores and the standard deviation of CIDEr.
    """
    groups: dict[tuple[str, str, int, int], list[Result]] = defaultdict(list)
    for result in results:
        groups[result["decoder"], result["model"], list(PHASES).index(result["phase"]), result["beam"]].append(result)
    rows = []
    for (decoder, _, phase, beam_size), group in sorted(groups.items()):
        group.sort(key=lambda result: result["seed"])
        scores = [f"{100 * mean(result['scores'][name] for result in group):.1f}" for name in METRICS]
        if len(group) > 1:
            scores[-1] += f" ± {100 * stdev(result['scores']['CIDEr'] for result in group):.1f}"
        size = f"{group[0]['parameters'] / 1e6:.1f} M"
        minutes = ", ".join(f"{result['minutes']:.0f}" for result in group)  # not a mean: machines may differ
        endings = f"{100 * mean(result['measures']['bad_endings']['model'] for result in group):.1f} %"
        seeds = ", ".join(str(result["seed"]) for result in group)
        rows.append([f"`{decoder}`", size, list(PHASES.values())[phase], minutes, beam_size, *scores, endings, seeds])
    return markdown_table(COLUMNS, rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.results_table", description="Print a table of runs.")
    parser.add_argument("data", type=Path, help="data that they were trained on")
    parser.add_argument("runs", type=Path, nargs="+", help="directories of finished runs, or files of their results")
    parser.add_argument("--save-to", type=Path, metavar="DIRECTORY", help="write the results of each run as <run>.json")
    parser.add_argument("--feature-cache", type=Path, default=Path("runs/features"), help="directory of the features")
    args = parser.parse_args()
    results: list[Result] = []
    with cli_errors(RuntimeError, ValueError):
        for run in tqdm(args.runs):
            rows = list(collect_results(run, args.data, args.feature_cache))
            if args.save_to and rows and run.is_dir():
                args.save_to.mkdir(parents=True, exist_ok=True)
                atomic_write_text(args.save_to / f"{run.name}.json", json.dumps(rows, indent=1) + "\n")
            results += rows
    if not results:
        sys.exit(f"No bundle in {', '.join(map(str, args.runs))}: the trainings have not finished.")
    print(format_table(results))


if __name__ == "__main__":
    main()

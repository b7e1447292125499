"""Compare two runs on the same split: significance of the differences, and the images that changed most.

python -m eval.compare mine new ../shared/data/flickr8k val
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.cli import add_data_arguments, add_metric_arguments, cli_errors, split_from_args
from eval.data import CaptionedImage
from eval.files import atomic_write_text
from eval.markdown import markdown_table
from eval.measure_differences import MeasureDifference, compare_measures, difference_rows
from eval.measures import Measures, measure_captions, measured_images
from eval.meteor import Meteor, MeteorError, optional_meteor
from eval.metrics import CaptionScores, compute_all_metrics
from eval.model_metrics import ModelMetrics
from eval.report import write_comparison
from eval.results import RESULTS, read_results
from eval.significance import Difference, paired_tests

ALPHA = 0.05
EXIT_REGRESSION = 3  # exit code of a run that is significantly worse than its baseline
NUM_CHANGED = 10  # images printed


class ScoredRun(NamedTuple):
    """Captions of a run by image id, before tokenization, with their scores and measures of degeneration."""

    captions: dict[int, str]
    scores: CaptionScores
    measures: Measures


class Comparison(NamedTuple):
    """Two runs on the same images, A first, and the differences of their scores."""

    a: ScoredRun
    b: ScoredRun
    differences: dict[str, Difference]

    def compare_measures(self) -> dict[str, MeasureDifference]:
        """Compare the measures of degeneration."""
        a, b = self.a, self.b
        images = measured_images(a.scores.references)
        return compare_measures(images, (a.measures, b.measures), (a.scores.tokens, b.scores.tokens))


def read_captions(path: Path, images: Sequence[CaptionedImage]) -> dict[int, str]:
    """Read the captions of a split from the directory of a run or from a COCO results file.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If the captions are not those of exactly these images.
    """
    captions = read_results(path / "captions.json" if path.is_dir() else path)
    if captions.keys() != {image.id for image in images}:
        raise ValueError(f"{path} does not have the captions of exactly the {len(images)} images of this split.")
    return captions


def score_run(captions: dict[int, str], scores: CaptionScores) -> ScoredRun:
    """Add the measures of degeneration to the scores of captions."""
    return ScoredRun(captions, scores, measure_captions(scores.references, scores.tokens))


def compare_runs(a: ScoredRun, b: ScoredRun, meteor: Meteor | None) -> Comparison:
    """Compare two runs on the same images, without METEOR if its process fails."""
    try:
        differences = paired_tests(a.scores, b.scores, meteor)
    except MeteorError as error:
        print(f"METEOR was not compared: {error}", file=sys.stderr)
        differences = paired_tests(a.scores, b.scores, None)
    return Comparison(a, b, differences)


def regressions(comparison: Comparison) -> list[str]:
    """List the metrics in which B is significantly worse, at a family-wise error rate of 0.05 (Holm 1979)."""
    ranked = sorted(comparison.differences.items(), key=lambda item: item[1].p)
    worse = set()
    for rank, (name, difference) in enumerate(ranked):
        if difference.p >= ALPHA / (len(ranked) - rank):
            break
        if difference.difference < 0:
            worse.add(name)
    return [name for name in comparison.differences if name in worse]


def most_changed(comparison: Comparison, count: int = NUM_CHANGED) -> list[int]:
    """List the ids of the images with the largest changes of CIDEr, from the largest gain to the largest loss."""
    change = comparison.b.scores.per_image["CIDEr"] - comparison.a.scores.per_image["CIDEr"]
    largest = [index for index in np.argsort(-np.abs(change), kind="stable")[:count] if change[index]]
    return [comparison.a.scores.images[index] for index in sorted(largest, key=lambda index: -change[index])]


def format_differences(differences: Mapping[str, Difference], a: str, b: str) -> str:
    """Format the differences of two runs named `a` and `b`, × 100, as a Markdown table; * marks p < 0.05."""
    rows = []
    for name, one in differences.items():
        star = " *" if one.p < ALPHA else ""
        low, high = one.interval
        rows.append(
            (
                name,
                f"{100 * one.a:.1f}",
                f"{100 * one.b:.1f}",
                f"{100 * one.difference:+.1f}{star}",
                f"{100 * low:+.1f} … {100 * high:+.1f}",
                f"{one.p:.3f}",
            )
        )
    table = markdown_table(["metric", a, b, "difference", "95 % interval", "p"], rows)
    return f"{table}\n\nDifference: {b} − {a}. *: p < 0.05, not corrected for the number of metrics."


def format_comparison(comparison: Comparison, a: str, b: str) -> str:
    """Format the scores and the measures of two runs named `a` and `b` as two Markdown tables."""
    rows = difference_rows(comparison.compare_measures())
    table = markdown_table(["measure", a, b, "people", "95 % interval"], rows)
    parts = [format_differences(comparison.differences, a, b), table]
    for name, run in ((a, comparison.a), (b, comparison.b)):
        if empty := sum(not caption for caption in run.captions.values()):
            parts.append(f"{name} has no caption for {empty} of {len(run.captions)} images.")
    return "\n\n".join(parts)


def format_changes(comparison: Comparison) -> str:
    """Format the captions that changed most with their CIDEr."""
    a, b = comparison.a.scores, comparison.b.scores
    cider_a, cider_b = (dict(zip(run.images, run.per_image["CIDEr"], strict=True)) for run in (a, b))
    lines = ["The images that changed most, with their CIDEr:"]
    for image in most_changed(comparison):
        lines += [
            str(image),
            f"  {cider_a[image]:6.2f}  {a.tokens[image]}",
            f"  {cider_b[image]:6.2f}  {b.tokens[image]}",
        ]
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m eval.compare", description="Compare two runs on the same split.")
    parser.add_argument("a", help="name of a run, its directory, or a COCO results file")
    parser.add_argument("b", help="the same for the other run")
    add_data_arguments(parser)
    parser.add_argument("--output", type=Path, help="JSON file to write the comparison to")
    parser.add_argument("--report", type=Path, help="HTML page to write; default: in eval/results")
    add_metric_arguments(parser)
    arguments = parser.parse_args()
    with cli_errors(RuntimeError):
        _, images = split_from_args(arguments, require_images=False)
        a, b = (Path(name) if Path(name).exists() else RESULTS / name for name in (arguments.a, arguments.b))
        both = [read_captions(path, images) for path in (a, b)]
        with optional_meteor(arguments.meteor) as meteor:
            models = ModelMetrics(arguments.clip, arguments.bert)
            references = {image.id: image.captions for image in images}
            run_a, run_b = (
                score_run(one, compute_all_metrics(references, one, meteor).add_means(models.score(images, one)))
                for one in both
            )
            comparison = compare_runs(run_a, run_b, meteor)
        names = (Path(arguments.a).name, Path(arguments.b).name)
        if names[0] == names[1]:
            names = (arguments.a, arguments.b)
        page = arguments.report or RESULTS / f"{names[0]}-vs-{names[1]}.html".replace("/", "-")
        page.parent.mkdir(parents=True, exist_ok=True)
        measures = difference_rows(comparison.compare_measures())
        captions, scores = (run_a.captions, run_b.captions), (run_a.scores, run_b.scores)
        write_comparison(page, names, comparison.differences, measures, images, captions, scores)
        if arguments.output:
            content: dict[str, Any] = {
                name: {"a": one.a, "b": one.b, "interval": list(one.interval), "p": one.p}
                for name, one in comparison.differences.items()
            }
            content["measures"] = comparison.compare_measures()
            atomic_write_text(arguments.output, json.dumps(content, indent=2) + "\n")
    print(f"{format_comparison(comparison, *names)}\n\n{format_changes(comparison)}")
    print(f"\nReport: {page}")


if __name__ == "__main__":
    main()

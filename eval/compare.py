"""Two runs side by side on the same split, with significance, and the pictures that changed most.

python -m eval.compare mine new ../shared/data/flickr8k val
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval.coco import CaptionedImage, read_split
from eval.meteor import Meteor, optional_meteor
from eval.metrics import CaptionScores
from eval.report import write_comparison
from eval.significance import Difference, compare
from eval.summary import RESULTS, add_meteor_option, measure_all, read_results

LEVEL = 0.05
REGRESSION = 3  # the status of a run that is significantly worse than its baseline
SHOWN = 10


class Comparison(NamedTuple):
    """Two runs on the same images."""

    a: CaptionScores
    b: CaptionScores
    differences: dict[str, Difference]
    captions: tuple[dict[int, str], dict[int, str]]  # as they were given, A's first


class MeasuredRun(NamedTuple):
    """A run's captions, as they were given, and what was measured of them."""

    captions: dict[int, str]
    measured: CaptionScores


def read_captions(path: Path, images: Sequence[CaptionedImage]) -> dict[int, str]:
    """The captions of a run's folder, or of a results file, for the images of a split.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are not of this split.
    """
    captions = read_results(path / "captions.json" if path.is_dir() else path)
    if captions.keys() != {image.id for image in images}:
        raise ValueError(f"{path} does not have the {len(images)} images of this split, and them alone.")
    return captions


def measure_run(captions: dict[int, str], images: Sequence[CaptionedImage], meteor: Meteor | None) -> MeasuredRun:
    """Measures captions; raises RuntimeError where the tokenizer or METEOR's program breaks off."""
    return MeasuredRun(captions, measure_all({image.id: image.captions for image in images}, captions, meteor))


def compare_runs(a: MeasuredRun, b: MeasuredRun, meteor: Meteor | None) -> Comparison:
    """Compares two runs of the same images; raises as `measure_run`."""
    differences = compare(a.measured, b.measured, meteor)
    return Comparison(a.measured, b.measured, differences, (a.captions, b.captions))


def regressions(comparison: Comparison) -> list[str]:
    """The metrics in which B is significantly worse, at a level of 0.05 for all together (Holm 1979)."""
    ranked = sorted(comparison.differences.items(), key=lambda item: item[1].p)
    found = []
    for place, (name, one) in enumerate(ranked):
        if one.p >= LEVEL / (len(ranked) - place):
            break
        if one.difference < 0:
            found.append(name)
    return [name for name in comparison.differences if name in found]


def most_changed(comparison: Comparison, count: int = SHOWN) -> list[int]:
    """Ids of the images whose CIDEr differs most, the largest gain first and the largest loss last."""
    difference = comparison.b.each["CIDEr"] - comparison.a.each["CIDEr"]
    chosen = [place for place in np.argsort(-np.abs(difference), kind="stable")[:count] if difference[place]]
    return [comparison.a.images[place] for place in sorted(chosen, key=lambda place: -difference[place])]


def table(differences: Mapping[str, Difference], a: str, b: str) -> str:
    """The comparison, × 100, as a table in Markdown; a star marks p < 0.05."""
    lines = [f"| metric | {a} | {b} | difference | 95 % interval | p |", "|---|---|---|---|---|---|"]
    for name, one in differences.items():
        star = " *" if one.p < LEVEL else ""
        low, high = one.interval
        lines.append(
            f"| {name} | {100 * one.a:.1f} | {100 * one.b:.1f} | {100 * one.difference:+.1f}{star} | "
            f"{100 * low:+.1f} … {100 * high:+.1f} | {one.p:.3f} |"
        )
    lines.append(f"\nDifference: {b} − {a}. *: p < 0.05, each metric by itself.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares two runs on the same split.")
    parser.add_argument("a", help="a run's name, its folder, or a results file")
    parser.add_argument("b", help="the other one's")
    parser.add_argument("data", type=Path, help="the folder in COCO's layout; its pictures need not be there")
    parser.add_argument("split", help="such as val")
    parser.add_argument("--output", type=Path, help="write the comparison there, too, as JSON")
    parser.add_argument("--report", type=Path, help="the page; left out, below eval/results")
    add_meteor_option(parser)
    arguments = parser.parse_args()
    try:
        images = read_split(arguments.data, arguments.split, pictures=False)
        a, b = (Path(name) if Path(name).exists() else RESULTS / name for name in (arguments.a, arguments.b))
        both = [read_captions(path, images) for path in (a, b)]
        with optional_meteor(arguments.meteor) as meteor:
            comparison = compare_runs(*(measure_run(captions, images, meteor) for captions in both), meteor)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(str(error))
    names = (Path(arguments.a).name, Path(arguments.b).name)
    if names[0] == names[1]:
        names = (arguments.a, arguments.b)
    page = arguments.report or RESULTS / f"{names[0]}-vs-{names[1]}.html".replace("/", "-")
    page.parent.mkdir(parents=True, exist_ok=True)
    write_comparison(page, names, comparison.differences, images, comparison.captions, comparison[:2])
    print(table(comparison.differences, *names))
    a_each, b_each = (dict(zip(one.images, one.each["CIDEr"], strict=True)) for one in comparison[:2])
    print("\nThe pictures that changed most, with their CIDEr:")
    for image in most_changed(comparison):
        print(f"{image}\n  {a_each[image]:6.2f}  {comparison.a.tokens[image]}")
        print(f"  {b_each[image]:6.2f}  {comparison.b.tokens[image]}")
    print(f"\nThe report is {page}.")
    if arguments.output:
        content = {
            name: {"a": one.a, "b": one.b, "interval": list(one.interval), "p": one.p}
            for name, one in comparison.differences.items()
        }
        arguments.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""All that is said of a split's captions: scores with intervals, and what scores do not show."""

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval import spice
from eval.coco import CaptionedImage, read_split
from eval.endings import bad_endings
from eval.meteor import Meteor
from eval.metrics import CaptionScores, compute_metrics, signature
from eval.significance import RESAMPLES, SEED, bootstrap
from eval.version import project_version

RESULTS = Path("eval/results")  # a folder for each run


def summarize(
    split: str,
    images: Sequence[CaptionedImage],
    captions: Mapping[int, str],
    described: str,
    train: Sequence[CaptionedImage] = (),
    meteor: Meteor | None = None,
) -> tuple[CaptionScores, dict[str, Any]]:
    """Scores captions.

    Args:
        split: its name in the signature.
        images: the split.
        captions: image id → caption, empty where there is none.
        described: how and by what they were made, for the signature.
        train: the training split, to tell which captions are copies.
        meteor: running; without it METEOR is not measured.

    Returns:
        What was measured, and the part of `scores.json` that follows from the captions.

    Raises:
        ValueError: captions and images do not fit.
        RuntimeError: the tokenizer or METEOR's program broke off.
    """
    references = {image.id: image.captions for image in images}
    measured = measure_all(references, captions, meteor)
    intervals = bootstrap(measured, meteor)
    words = [text.split() for text in measured.tokens.values()]
    named = signature(split, references, described, meteor=meteor is not None)
    content = {
        "n": len(images),
        "scores": measured.scores,
        "intervals": {name: list(ends) for name, ends in intervals.items()},
        "signature": f"{named}|data:{split_digest(images)[:15]}|bootstrap:{RESAMPLES},seed={SEED}|v:{project_version()}",
        "bad_endings": bad_endings(captions.values()),
        "mean_length": sum(map(len, words)) / len(words),
        "vocabulary": len({word for some in words for word in some}),
        "distinct": len(set(measured.tokens.values())) / len(words),
        "empty": sum(not some for some in words),
    }
    reasons = {"METEOR": "it was not asked for", "SPICE": spice.MISSING}
    if missing := {name: reason for name, reason in reasons.items() if name not in measured.scores}:
        content["not_measured"] = missing
    if train:
        known = {_plain(text) for image in train for text in image.captions}
        content["copied"] = sum(_plain(text) in known for text in measured.tokens.values()) / len(words)
    return measured, content


def measure_all(
    references: Mapping[int, Sequence[str]], captions: Mapping[int, str], meteor: Meteor | None
) -> CaptionScores:
    """What `compute_metrics` gives, and SPICE where it is installed; METEOR where it runs. Errors as there."""
    measured = compute_metrics(references, captions, meteor=meteor or False)
    if spice.installed():
        measured.scores["SPICE"], each = spice.spice_scores(measured.references, measured.tokens)
        measured.each["SPICE"] = np.array(each)
    return measured


def _plain(text: str) -> str:
    """A caption without case and punctuation, to tell copies by."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())


def split_digest(images: Sequence[CaptionedImage]) -> str:
    """What tells a split's references: SHA-256 over ids and captions."""
    content = json.dumps([[image.id, image.captions] for image in images])
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def split_name(data: Path, split: str) -> str:
    """A split's name with that of its set, such as `flickr8k/val`."""
    return f"{data.resolve().name}/{split}"


def read_results(path: Path) -> dict[int, str]:
    """Captions by image id from a file in COCO's results format, `[{"image_id": …, "caption": …}]`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such list, or names an image twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(entry["image_id"], entry["caption"]) for entry in entries]
        if not all(isinstance(caption, str) for _, caption in pairs):
            raise TypeError("a caption is no text")
        captions = dict(pairs)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not in COCO's results format: {error!r}.") from error
    if len(captions) < len(pairs):
        raise ValueError(f"{path} has {len(pairs) - len(captions)} images twice.")
    return captions


def write_results(path: Path, captions: Mapping[int, str]) -> None:
    """Writes captions in COCO's results format."""
    entries = [{"image_id": image, "caption": caption} for image, caption in captions.items()]
    atomic_write_text(path, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def atomic_write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all: a kill or a full disk in between leaves what was there."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def table(content: Mapping[str, Any]) -> str:
    """Scores with their intervals, × 100, as a table in Markdown."""
    lines = ["| metric | score | 95 % interval |", "|---|---|---|"]
    for name, score in content["scores"].items():
        low, high = content["intervals"].get(name, (None, None))
        ends = "–" if low is None else f"{100 * low:.1f} – {100 * high:.1f}"
        lines.append(f"| {name} | {100 * score:.1f} | {ends} |")
    if "bad_endings" in content:
        lines.append(f"\n{100 * content['bad_endings']:.1f} % of the captions end in a function word.")
    lines += [f"\n{name} was not measured: {reason}." for name, reason in content.get("not_measured", {}).items()]
    return "\n".join(lines)


def add_meteor_option(parser: argparse.ArgumentParser) -> None:
    """`--no-meteor`, of the commands that score."""
    spared = "leave METEOR out, which takes ten seconds to start and 1.2 GB of memory"
    parser.add_argument("--no-meteor", dest="meteor", action="store_false", help=spared)


def load_training_split(data: Path, split: str | None) -> Sequence[CaptionedImage]:
    """The training split's captions, where one is named; its pictures need not be there."""
    return read_split(data, split, pictures=False) if split else ()

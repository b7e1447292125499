"""A run, or two runs compared, as one HTML page that opens from disk and asks for nothing from elsewhere.

`page.html` is the frame, `page.css` and `page.js` are put into it, and the data as JSON. Pictures are in it as small
JPEGs, so that a page is as private as the pictures are.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.coco import CaptionedImage
from eval.endings import bad_endings
from eval.metrics import CaptionScores
from eval.significance import Difference

FOLDER = Path(__file__).parent
THUMBNAIL = (240, 180)
PICTURES = 1500  # in a page at most, of 7 KB each: of larger splits those at the ends of the rankings


def write_run(
    path: Path,
    name: str,
    content: Mapping[str, Any],
    images: Sequence[CaptionedImage],
    captions: Mapping[int, str],
    measured: CaptionScores,
    log: Mapping[int, Mapping[str, Any]],
) -> None:
    """Writes the page of one run.

    Args:
        path: of the page.
        name: the run's.
        content: of `scores.json`.
        images: the split.
        captions: image id → caption.
        measured: the same captions.
        log: image id → its line in the log of requests.
    """
    shown = _worth_a_picture(measured.each["CIDEr"], _disputed(measured))
    rows = []
    for place, image in enumerate(images):
        line = log[image.id]
        row = _row(image, place in shown) | {
            "caption": captions[image.id],
            "scores": _scores(measured, place),
            "disputed": round(float(_disputed(measured)[place]), 4),
            "bad": bad_endings([captions[image.id]]) > 0,
            "at": line["at"],
            "seconds": line["seconds"],
        }
        if "error" in line:
            row["error"] = line["error"]["message"]
        rows.append(row)
    _write(path, {"kind": "run", "name": name, "content": content, "images": rows})


def write_comparison(
    path: Path,
    names: tuple[str, str],
    differences: Mapping[str, Difference],
    images: Sequence[CaptionedImage],
    captions: tuple[Mapping[int, str], Mapping[int, str]],
    measured: tuple[CaptionScores, CaptionScores],
) -> None:
    """Writes the page of two runs on the same split.

    Args:
        path: of the page.
        names: of the runs, A's first.
        differences: from `compare`.
        images: the split.
        captions: of each run, image id → caption.
        measured: the same captions.
    """
    change = measured[1].each["CIDEr"] - measured[0].each["CIDEr"]
    shown = _worth_a_picture(change, np.abs(change))
    rows = [
        _row(image, place in shown)
        | {
            "captions": [some[image.id] for some in captions],
            "scores": _scores(measured[1], place),
            "before": _scores(measured[0], place),
            "change": round(float(change[place]), 4),
        }
        for place, image in enumerate(images)
    ]
    found = {name: asdict(one) | {"difference": one.difference} for name, one in differences.items()}
    _write(path, {"kind": "comparison", "names": names, "differences": found, "images": rows})


def _row(image: CaptionedImage, with_picture: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"id": image.id, "references": list(image.captions)}
    if with_picture and image.path.is_file():
        row["picture"] = thumbnail(image.path)
    return row


def _scores(measured: CaptionScores, place: int) -> dict[str, float]:
    return {name: round(float(values[place]), 4) for name, values in measured.each.items()}


def _disputed(measured: CaptionScores) -> np.ndarray:
    """How far a picture's ranks by CIDEr and by METEOR are apart, 0 to 1."""
    if "METEOR" not in measured.each or len(measured.images) < 2:
        return np.zeros(len(measured.images))
    ranks = [measured.each[name].argsort(kind="stable").argsort() for name in ("CIDEr", "METEOR")]
    return np.abs(ranks[0] - ranks[1]) / (len(measured.images) - 1)


def _worth_a_picture(ranked: np.ndarray, other: np.ndarray) -> set[int]:
    """The places of the images that get a picture: all, or those at both ends of one ranking and the top of another."""
    if len(ranked) <= PICTURES:
        return set(range(len(ranked)))
    order, third = ranked.argsort(kind="stable"), PICTURES // 3
    return {int(place) for some in (order[:third], order[-third:], (-other).argsort()[:third]) for place in some}


def thumbnail(path: Path) -> str:
    """A picture, made small, as a data URL; empty where it can't be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", THUMBNAIL)
            small = image.convert("RGB")
            small.thumbnail(THUMBNAIL)
            stream = BytesIO()
            small.save(stream, "JPEG", quality=72)
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _write(path: Path, data: Mapping[str, Any]) -> None:
    # Captions are anybody's text: no `<` of theirs can end the element that holds them.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    for mark, part in (
        ("/*css*/", (FOLDER / "page.css").read_text(encoding="utf-8")),
        ("/*js*/", (FOLDER / "page.js").read_text(encoding="utf-8")),
        ("/*data*/", text),  # last, as its text may hold the other marks
    ):
        page = page.replace(mark, part, 1)
    path.write_text(page, encoding="utf-8")

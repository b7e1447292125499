"""HTML report of one run, or of two runs compared.

A report is one self-contained document: `page.html` with the style, the script and the data inlined. It opens from
disk and loads nothing. Thumbnails of the images are embedded, so a report is as confidential as the images are.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from eval.data import CaptionedImage
from eval.endings import bad_endings
from eval.measure_table import measure_rows, table_values
from eval.metrics import CaptionScores
from eval.significance import Difference
from eval.summary import measures_of

DIRECTORY = Path(__file__).parent
THUMBNAIL_SIZE = (240, 180)  # pixels
THUMBNAIL_QUALITY = 72
MAX_THUMBNAILS = 1500  # 7 KB each; larger splits show those at the ends of the rankings


def write_run(
    path: Path,
    name: str,
    content: Mapping[str, Any],
    images: Sequence[CaptionedImage],
    captions: Mapping[int, str],
    measured: CaptionScores,
    log: Mapping[int, Mapping[str, Any]],
) -> None:
    """Write the report of one run.

    Args:
        path: File to write.
        name: Name of the run.
        content: Content of `scores.json`.
        images: Images of the split.
        captions: Image id → caption.
        measured: Scores of these captions.
        log: Image id → its entry in the request log.
    """
    disagreement = _metric_disagreement(measured)
    with_thumbnail = _select_thumbnails(measured.per_image["CIDEr"], disagreement)
    rows = []
    for i, image in enumerate(images):
        entry = log[image.id]
        row = _image_row(image, i in with_thumbnail) | {
            "caption": captions[image.id],
            "scores": _image_scores(measured, i),
            "disagreement": round(float(disagreement[i]), 4),
            "bad_ending": bad_endings([captions[image.id]]) > 0,
            "at": entry["at"],
            "seconds": entry["seconds"],
        }
        if "error" in entry:
            row["error"] = entry["error"]["message"]
        rows.append(row)
    measures = measure_rows(table_values(measures_of(content)))
    _write_page(path, {"kind": "run", "name": name, "content": content, "measures": measures, "images": rows})


def write_comparison(
    path: Path,
    names: tuple[str, str],
    differences: Mapping[str, Difference],
    measures: Sequence[Sequence[str]],
    images: Sequence[CaptionedImage],
    captions: tuple[Mapping[int, str], Mapping[int, str]],
    measured: tuple[CaptionScores, CaptionScores],
) -> None:
    """Write the report of two runs on the same split.

    Args:
        path: File to write.
        names: Names of the runs A and B.
        differences: Metric → difference between A and B.
        measures: Rows of the table of measures: label, values of A, of B and of people, interval.
        images: Images of the split.
        captions: Image id → caption, for A and B.
        measured: Scores of these captions.
    """
    before, after = measured
    change = after.per_image["CIDEr"] - before.per_image["CIDEr"]
    with_thumbnail = _select_thumbnails(change, np.abs(change))
    rows = [
        _image_row(image, i in with_thumbnail)
        | {
            "captions": [of_run[image.id] for of_run in captions],
            "scores": _image_scores(after, i),
            "scores_before": _image_scores(before, i),
            "change": round(float(change[i]), 4),
        }
        for i, image in enumerate(images)
    ]
    metrics = {name: asdict(result) | {"difference": result.difference} for name, result in differences.items()}
    content = {"kind": "comparison", "names": names, "differences": metrics, "measures": measures, "images": rows}
    _write_page(path, content)


def create_thumbnail(path: Path) -> str:
    """Return a small JPEG of an image as a data URL, or an empty string if the file cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", THUMBNAIL_SIZE)
            thumbnail = image.convert("RGB")
            thumbnail.thumbnail(THUMBNAIL_SIZE)
            stream = BytesIO()
            thumbnail.save(stream, "JPEG", quality=THUMBNAIL_QUALITY)
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _image_row(image: CaptionedImage, with_thumbnail: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"id": image.id, "references": list(image.captions)}
    if with_thumbnail and image.path.is_file():
        row["thumbnail"] = create_thumbnail(image.path)
    return row


def _image_scores(measured: CaptionScores, index: int) -> dict[str, float]:
    return {name: round(float(values[index]), 4) for name, values in measured.per_image.items()}


def _metric_disagreement(measured: CaptionScores) -> npt.NDArray[np.float64]:
    """Return the distance between each image's ranks by CIDEr and by METEOR, 0 to 1; 0 without METEOR."""
    last = len(measured.images) - 1
    if "METEOR" not in measured.per_image or last < 1:
        return np.zeros(len(measured.images))
    by_cider, by_meteor = (measured.per_image[name].argsort(kind="stable").argsort() for name in ("CIDEr", "METEOR"))
    disagreement: npt.NDArray[np.float64] = np.abs(by_cider - by_meteor) / last
    return disagreement


def _select_thumbnails(ranking: npt.NDArray[np.float64], interest: npt.NDArray[np.float64]) -> set[int]:
    """Return the indices of the images that get a thumbnail.

    These are all images of a small split, otherwise those at both ends of `ranking` and those with the most `interest`.
    """
    if len(ranking) <= MAX_THUMBNAILS:
        return set(range(len(ranking)))
    order, third = ranking.argsort(kind="stable"), MAX_THUMBNAILS // 3
    return {int(i) for part in (order[:third], order[-third:], (-interest).argsort()[:third]) for i in part}


def _write_page(path: Path, data: Mapping[str, Any]) -> None:
    template, css, js = (
        (DIRECTORY / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    # Captions are untrusted: no `<` in them may end the script element that holds the data.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    path.write_text(Template(template).substitute(css=css, js=js, data=text), encoding="utf-8")

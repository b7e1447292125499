"""The HTML report: its data stay inside their element, and a large split gets thumbnails of selected images only."""

import json
import re

import numpy as np
from PIL import Image

from eval import report
from eval.data import CaptionedImage
from eval.significance import Difference

MARKUP = "</script><script>alert(1)</script> $data ${js} $$ é"


class Scores:
    """The part of `CaptionScores` that a report reads."""

    def __init__(self, ciders, meteors=None):
        self.images = list(range(len(ciders)))
        self.per_image = {"CIDEr": np.array(ciders)} | ({} if meteors is None else {"METEOR": np.array(meteors)})


def data(page) -> dict:
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


def test_write_run_embeds_captions_that_cannot_leave_their_element(tmp_path):
    Image.new("RGB", (480, 360)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    images = [CaptionedImage(i, tmp_path / f"{name}.png", (MARKUP,)) for i, name in enumerate("abc")]
    log = {i: {"at": 1.0, "seconds": 0.1} for i in range(3)} | {2: {"at": 1, "seconds": 0, "error": {"message": "No."}}}
    captions = {0: MARKUP, 1: "a dog with a", 2: ""}
    page = tmp_path / "report.html"
    content = {"signature": MARKUP, "measures": {"words_used": {"model": 3, "people": None}}, "overused": []}
    report.write_run(page, "run", content, images, captions, Scores([3.0, 1.0, 2.0], [1, 2, 3]), log)
    found = data(page)
    assert page.read_text().count("<script") == 2
    assert (found["name"], found["content"]) == ("run", content)
    assert found["measures"] == [["words used", "3", "–"]]
    rows = found["images"]
    assert rows[0]["thumbnail"].startswith("data:image/jpeg;base64,")
    assert rows[1]["thumbnail"] == ""  # unreadable
    assert "thumbnail" not in rows[2]  # missing
    assert [row["caption"] for row in rows] == list(captions.values())
    assert [row["bad_ending"] for row in rows] == [False, True, True]
    assert [row["disagreement"] for row in rows] == [1.0, 0.5, 0.5]  # ranks 2, 0, 1 by CIDEr and 0, 1, 2 by METEOR
    assert [row.get("error") for row in rows] == [None, None, "No."]


def test_write_run_ranks_images_once(tmp_path, monkeypatch):
    """Once for each image, the report of 40,504 images took half an hour."""
    calls, rank = [], report._metric_disagreement
    monkeypatch.setattr(report, "_metric_disagreement", lambda measured: calls.append(1) or rank(measured))
    images = [CaptionedImage(i, tmp_path / "missing.jpg", ("a cat",)) for i in range(50)]
    content = {"measures": {}, "overused": []}
    log = {i: {"at": 1.0, "seconds": 0.1} for i in range(50)}
    scores = Scores([0.5] * 50, [0.5] * 50)
    report.write_run(tmp_path / "report.html", "run", content, images, dict.fromkeys(range(50), "a cat"), scores, log)
    assert len(calls) == 1


def test_write_comparison_lists_captions_and_changes(tmp_path):
    images = [CaptionedImage(7, tmp_path / "missing.jpg", ("a cat",))]
    page = tmp_path / "report.html"
    differences = {"CIDEr": Difference(0.5, 0.75, (0.1, 0.4), 0.01)}
    captions = ({7: "a dog"}, {7: "a cat"})
    scores, measures = (Scores([0.5]), Scores([0.75])), [["words used", "3", "4", "9"]]
    report.write_comparison(page, ("A", "B"), differences, measures, images, captions, scores)
    found = data(page)
    assert found["names"] == ["A", "B"]
    assert found["differences"]["CIDEr"]["difference"] == 0.25
    assert found["measures"] == measures
    assert found["images"] == [
        {
            "id": 7,
            "references": ["a cat"],
            "captions": ["a dog", "a cat"],
            "scores": {"CIDEr": 0.75},
            "scores_before": {"CIDEr": 0.5},
            "change": 0.25,
        }
    ]


def test_large_split_gets_thumbnails_of_extreme_images_only(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_THUMBNAILS", 3)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    images = [CaptionedImage(i, tmp_path / "a.png", ("a cat",)) for i in range(6)]
    before, after = Scores([0.0] * 6), Scores([0.1, -0.3, 0.0, 0.5, -0.1, 0.2])
    captions = (dict.fromkeys(range(6), ""), dict.fromkeys(range(6), ""))
    report.write_comparison(tmp_path / "report.html", ("A", "B"), {}, [], images, captions, (before, after))
    shown = [row["id"] for row in data(tmp_path / "report.html")["images"] if "thumbnail" in row]
    assert shown == [1, 3]  # the worst and the best, which is the most changed, too

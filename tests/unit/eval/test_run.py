"""`make eval`: results, resumed runs, endpoints that fail or change, regressions against a baseline."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from eval.data import read_split
from eval.results import read_results
from eval.transports import DEFAULT_ENDPOINTS
from tests.helpers.paths import ROOT
from tests.helpers.polling import eventually

IMAGES = read_split(ROOT / "samples", "photos")
BY_BYTES = {image.path.read_bytes(): image for image in IMAGES}
MODEL = {"name": "captioner", "version": "1.0", "digest": "sha256:0123456789abcdef"}


def captioned(text: str, model=MODEL) -> tuple[int, str, dict]:
    answer = {"caption": text, "captions": [{"caption": text, "score": -0.5}], "model": model}
    return 200, "application/json", answer


def first_reference(number: int, body: bytes):
    """Respond with the first reference of the image."""
    return captioned(BY_BYTES[body].captions[0])


def run_arguments(endpoint, results: Path, *more, meteor: bool = False) -> list[object]:
    more = more if meteor else (*more, "--no-meteor")
    return ["samples", "photos", "--endpoint", endpoint.url, "--results", results, "--run", "mine", *more]


@pytest.fixture
def run(run_main, monkeypatch):
    """Runs `python -m eval.run` in this process, with a short delay before errors are retried."""
    monkeypatch.setattr("eval.run.RETRY_DELAY", 0.05)
    return lambda *arguments, **options: run_main("eval.run", *run_arguments(*arguments, **options))


def test_run_writes_results_and_repeats_scores(serve, tmp_path, run, run_main, fake_meteor):
    endpoint = serve(first_reference)
    done = run(endpoint, tmp_path, "--train", "photos", meteor=True)
    assert done.returncode == 0, done.stderr
    assert "| CIDEr |" in done.stdout
    assert len(endpoint.seen) == len(IMAGES)
    captions = read_results(tmp_path / "mine" / "captions.json")
    assert captions == {image.id: image.captions[0] for image in IMAGES}
    content = json.loads((tmp_path / "mine" / "scores.json").read_text())
    assert content["n"] == len(IMAGES)
    assert (content["failed"], content["failures"]) == (0, [])
    assert content["scores"]["Bleu_4"] == pytest.approx(1, abs=1e-6)
    assert content["scores"].keys() == content["intervals"].keys() >= {"METEOR"}
    assert content["signature"].startswith(f"samples/photos|n:{len(IMAGES)}|refs:")
    assert "|model:sha256:0123456789ab|" in content["signature"]
    assert content["latency_ms"].keys() == {"p50", "p95", "p99"}
    assert 0 < content["latency_ms"]["p50"] <= content["latency_ms"]["p99"]
    assert content["throughput"] > 0
    assert content["model"] == MODEL
    assert (content["measures"]["copied"]["model"], content["empty"]) == (1.0, 0)
    assert content["measures"]["words_used"].keys() == {"model", "people"}
    assert "| words used |" in done.stdout
    assert not (tmp_path / "mine" / "caption_sets.json").exists()
    # A second time, one image is requested to check the model, and the scores are the same.
    again = run(endpoint, tmp_path, "--train", "photos", meteor=True)
    assert len(endpoint.seen) == len(IMAGES) + 1
    assert "7 of 7 captions are from " in again.stdout
    assert again.stdout.partition("7 of 7")[0] == done.stdout.partition("0 of 7")[0]
    # The results file alone gives the same scores.
    arguments = [tmp_path / "mine" / "captions.json", "samples", "photos", "--output", tmp_path / "scored.json"]
    assert run_main("eval.score", *arguments).returncode == 0
    assert json.loads((tmp_path / "scored.json").read_text())["scores"] == content["scores"]


def test_run_complete_log_of_another_model_is_refused(serve, tmp_path, run):
    assert run(serve(first_reference), tmp_path).returncode == 0
    done = run(serve(lambda number, body: captioned("another", MODEL | {"digest": "sha256:other"})), tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"The model of the endpoint has changed from {MODEL['digest']} to sha256:other: choose another RUN."
    )
    gone = serve(first_reference)
    gone.close()
    done = run(gone, tmp_path, "--retries", 0)
    assert done.returncode == 0, done.stderr
    assert "Cannot check that the endpoint still has the same model" in done.stderr


def test_run_killed_resumes_without_repeating_requests(serve, tmp_path, run):
    """SIGKILL after two responses, one request at a time: at most the one in flight is repeated."""

    def slow(number, body):
        time.sleep(0.2)
        return first_reference(number, body)

    endpoint = serve(slow)
    command = [sys.executable, "-m", "eval.run", *map(str, run_arguments(endpoint, tmp_path, "--concurrency", 1))]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    log = tmp_path / "mine" / "requests.jsonl"
    eventually(lambda: log.exists() and log.read_text().count('"caption"') >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = log.read_text().count('"caption"')
    with log.open("a") as file:
        file.write('{"image_id": 3, "capt')  # a truncated line
    before = len(endpoint.seen)
    done = run(endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(endpoint.seen) - before == len(IMAGES) - written
    assert len(json.loads((tmp_path / "mine" / "captions.json").read_text())) == len(IMAGES)


def test_run_unreachable_endpoint_stops_and_resumes(serve, tmp_path, run):
    def three(number, body):
        if number > 3:
            going.close()  # no further connections
            raise ConnectionError  # closes this one
        return first_reference(number, body)

    going = serve(three)
    done = run(going, tmp_path, "--concurrency", 1, "--retries", 1)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("captioner. Run the same command again to resume.")
    assert not (tmp_path / "mine" / "scores.json").exists()
    back = serve(first_reference)
    done = run(back, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(back.seen) == len(IMAGES) - 3


def refusal(code: int, type: str) -> tuple[int, str, dict]:
    return code, "application/json", {"code": code, "type": type, "message": f"{type} it is."}


FAILURES = {
    "refused": (refusal(422, "InvalidImage"), "InvalidImage", 0),
    "broken server": (refusal(500, "InternalError"), "InternalError", 1),
    "no JSON": ((200, "application/json", b"{"), "NoJSON", 1),
    "no caption": ((200, "application/json", {"captions": []}), "NoCaption", 1),
    "a number": ((200, "application/json", {"caption": 7}), "NoCaption", 1),
    "odd captions": ((200, "application/json", b'{"caption": NaN, "captions": 7}'), "NoJSON", 1),
}


def test_run_failures_are_listed_and_count_as_empty_captions(serve, tmp_path, run):
    """Each image but one fails in another way. Invalid images are not requested again by a second command."""
    failing = dict(zip((image.id for image in IMAGES), FAILURES.values(), strict=False))
    assert len(failing) == len(FAILURES) == len(IMAGES) - 1

    def answer(number, body):
        image = BY_BYTES[body]
        return failing[image.id][0] if image.id in failing else first_reference(number, body)

    endpoint = serve(answer)
    done = run(endpoint, tmp_path)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("6 of 7 images have no caption and count as empty ones: the scores")
    assert re.search(r"\| CIDEr \| [\d.]+ \| [\d.]+ – [\d.]+ \| 1/7 \|", done.stdout)
    content = json.loads((tmp_path / "mine" / "scores.json").read_text())
    assert {one["image_id"]: one["type"] for one in content["failures"]} == {
        i: kind for i, (_, kind, _) in failing.items()
    }
    captions = read_results(tmp_path / "mine" / "captions.json")
    assert [captions[image.id] for image in IMAGES] == [""] * len(FAILURES) + [IMAGES[-1].captions[0]]
    assert (content["n"], content["failed"], content["empty"]) == (len(IMAGES), len(FAILURES), len(FAILURES))
    assert content["scores"]["Bleu_1"] < 1
    broken = sum(again for _, _, again in FAILURES.values())
    assert len(endpoint.seen) == len(IMAGES) + broken  # errors are retried once
    assert content["captioned"] == 1
    assert "|n:7|captioned:1|refs:5|" in content["signature"]
    assert run(endpoint, tmp_path, "--allow-partial").returncode == 0
    assert len(endpoint.seen) == len(IMAGES) + 3 * broken


def test_run_image_that_breaks_the_connection_fails_alone(serve, tmp_path, run):
    def breaking(number, body):
        if BY_BYTES[body] is IMAGES[3]:
            raise ConnectionError
        return first_reference(number, body)

    done = run(serve(breaking), tmp_path, "--retries", 1)
    assert done.returncode == 4, done.stderr
    content = json.loads((tmp_path / "mine" / "scores.json").read_text())
    assert [(one["image_id"], one["type"]) for one in content["failures"]] == [(IMAGES[3].id, "Broken")]


def test_run_transient_error_is_retried(serve, tmp_path, run):
    def once(number, body):
        return refusal(500, "InternalError") if number == 2 else first_reference(number, body)

    done = run(serve(once), tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "mine" / "scores.json").read_text())
    assert (content["failed"], content["empty"]) == (0, 0)
    assert "METEOR was not measured: it was not requested." in done.stdout
    assert "METEOR" not in content["scores"]
    assert "meteor" not in content["signature"]


def test_run_without_any_caption_exits_with_the_first_error(serve, tmp_path, run):
    done = run(serve(lambda number, body: refusal(400, "UnknownOption")), tmp_path, "beams=3")
    assert done.returncode == 1
    assert done.stderr.endswith("No image got a caption. The first error is: UnknownOption it is.\n")


def test_run_empty_captions_are_not_failures(serve, tmp_path, run):
    done = run(serve(lambda number, body: captioned("" if number % 2 else "a photo")), tmp_path, "--concurrency", 1)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "mine" / "scores.json").read_text())
    assert (content["failed"], content["empty"], content["captioned"]) == (0, 4, 7)
    assert content["measures"]["bad_endings"]["model"] == pytest.approx(4 / 7)


def test_run_model_change_stops(serve, tmp_path, run):
    def changing(number, body):
        return captioned("a dog", MODEL if number < 4 else MODEL | {"digest": "sha256:other"})

    done = run(serve(changing), tmp_path, "--concurrency", 1)
    assert done.returncode == 1
    assert "The model of the endpoint has changed from sha256:0123456789abcdef to sha256:other" in done.stderr


def test_run_with_other_options_is_refused(serve, tmp_path, run):
    endpoint = serve(lambda number, body: captioned("a photo"))
    assert run(endpoint, tmp_path, "beam_size=3").returncode == 0
    assert b'name="beam_size"\r\n\r\n3' in endpoint.seen[0][2]
    assert "beam_size:3|model" in json.loads((tmp_path / "mine" / "scores.json").read_text())["signature"]
    done = run(endpoint, tmp_path, "beam_size=4")
    assert done.returncode == 1
    assert done.stderr.endswith("belongs to a run with other options: choose another RUN.\n")
    assert run(endpoint, tmp_path, "beam_size").stderr == "Options are written as name=value, not 'beam_size'.\n"


def test_run_limit_scores_the_first_images_and_signs_it(serve, tmp_path, run, run_main):
    endpoint = serve(first_reference)
    done = run(endpoint, tmp_path, "--limit", 2)
    assert done.returncode == 0, done.stderr
    assert len(endpoint.seen) == 2
    scores = json.loads((tmp_path / "mine" / "scores.json").read_text())
    assert scores["signature"].startswith("samples/photos[:2]|n:2|")
    results = tmp_path / "mine" / "captions.json"
    assert [entry["image_id"] for entry in json.loads(results.read_text())] == [image.id for image in IMAGES[:2]]
    done = run_main("eval.score", results, "samples", "photos", "--limit", 2, "--no-meteor")
    assert f"CIDEr | {100 * scores['scores']['CIDEr']:.1f}" in done.stdout.replace("  ", " ")
    assert run(endpoint, tmp_path, "--limit", 0).stderr.endswith("must be at least 1, not 0.\n")


def test_run_without_coco_names_the_two_ways_on(tmp_path, run_main):
    done = run_main("eval.run", tmp_path / "coco", "val2017")
    assert done.returncode == 1
    download = f"`make data DATA={tmp_path / 'coco'} SPLITS=val2017`, which downloads its 5,000 images"
    assert f"COCO's val2017 is not in {tmp_path / 'coco'}: run {download}" in done.stderr
    assert "take a first look with `make eval DATA=samples SPLIT=photos`" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "no split 'other'" in run_main("eval.run", "samples", "other").stderr


def test_run_default_endpoint_away_says_how_to_start_it(tmp_path, run_main, monkeypatch):
    monkeypatch.setitem(DEFAULT_ENDPOINTS, "rest", "http://127.0.0.1:9")  # the discard service, which nothing runs
    done = run_main("eval.run", "samples", "photos", "--results", tmp_path, "--retries", 0)
    assert "`make serve` starts a server here, ENDPOINT=… names another one. Run the same command" in done.stderr


def test_run_with_num_captions_keeps_all_of_them_and_measures_their_diversity(serve, tmp_path, run):
    def several(number, body):
        [image] = [image for data, image in BY_BYTES.items() if data in body]  # the body has the option, too
        texts = image.captions[:2]
        response = {"caption": texts[0], "captions": [{"caption": text, "score": -1} for text in texts], "model": MODEL}
        return 200, "application/json", response

    endpoint = serve(several)
    for _ in range(2):  # the second time from the log
        assert run(endpoint, tmp_path, "num_captions=2").returncode == 0
        sets = json.loads((tmp_path / "mine" / "caption_sets.json").read_text())
        assert sets == [{"image_id": image.id, "captions": list(image.captions[:2])} for image in IMAGES]
        measures = json.loads((tmp_path / "mine" / "scores.json").read_text())["measures"]
        for name in ("div_1", "div_2", "mbleu_4", "self_cider"):
            assert measures[name]["model"] == pytest.approx(measures[name]["people"])
    assert len(endpoint.seen) == len(IMAGES) + 1


@pytest.fixture
def twenty(tmp_path) -> tuple[Path, dict[bytes, str]]:
    """A split of twenty gray images, and their references by the bytes of the image."""
    root, references = tmp_path / "data", {}
    (root / "grey").mkdir(parents=True)
    (root / "annotations").mkdir()
    words = ["a", "dog", "runs", "through", "the", "green", "grass", "near", "an", "old", "red", "house"]
    for number in range(20):
        path = root / "grey" / f"{number}.png"
        Image.new("L", (8, 8), number).save(path)
        references[path.read_bytes()] = " ".join(words[number % 4 : number % 4 + 8])
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(20)],
        "annotations": [{"id": n, "image_id": n, "caption": text} for n, text in enumerate(references.values())],
    }
    (root / "annotations" / "captions_grey.json").write_text(json.dumps(content))
    return root, references


def test_run_worse_than_baseline_exits_3(serve, tmp_path, twenty, run_main):
    data, references = twenty

    def call(name, caption, *more):
        endpoint = serve(lambda number, body: captioned(caption(references[body])))
        arguments = [data, "grey", "--endpoint", endpoint.url, "--results", tmp_path, "--run", name, *more]
        return run_main("eval.run", *arguments, "--no-meteor")

    assert call("good", str).returncode == 0
    worse = call("bad", lambda text: " ".join(text.split()[:3]), "--baseline", "good")
    assert worse.returncode == 3, worse.stderr
    assert worse.stderr.splitlines()[-1].startswith("Significantly worse than good: Bleu_1, ")
    assert "| metric | good | bad |" in worse.stdout
    itself = call("good", str, "--baseline", "good")
    assert (itself.returncode, itself.stderr) == (1, "A run cannot be its own baseline: choose another RUN.\n")
    assert call("as good", str, "--baseline", "bad").returncode == 0
    missing = call("x", str, "--baseline", "none")
    assert (missing.returncode, "has no scores.json" in missing.stderr) == (1, True)
    page = tmp_path / "comparison.html"
    arguments = [tmp_path / "good", tmp_path / "bad", data, "grey", "--report", page, "--no-meteor"]
    done = run_main("eval.compare", *arguments, "--output", tmp_path / "differences.json")
    assert done.returncode == 0, done.stderr
    assert "| CIDEr |" in done.stdout
    assert " * |" in done.stdout
    assert page.exists()
    differences = json.loads((tmp_path / "differences.json").read_text())
    assert differences["CIDEr"].keys() == {"a", "b", "interval", "p"}
    difference = {"a": 8.0, "b": 3.0, "people": None, "interval": [-5.0, -5.0]}
    assert differences["measures"]["words_per_caption"] == difference
    assert "| words per caption | 8.0 | 3.0 | – | -5.0 … -5.0 |" in done.stdout

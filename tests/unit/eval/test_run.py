"""`make eval` against endpoints that break off, lie and change; what it writes; and the gate."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from eval.client import Client
from eval.coco import read_split
from eval.compare import Comparison, regressions
from eval.significance import Difference
from eval.summary import read_results
from tests.helpers.paths import ROOT
from tests.helpers.polling import eventually

IMAGES = read_split(ROOT / "samples", "photos")
BY_BYTES = {image.path.read_bytes(): image for image in IMAGES}
MODEL = {"name": "captioner", "version": "1.0", "digest": "sha256:0123456789abcdef"}


def captioned(text: str, model=MODEL) -> tuple[int, str, dict]:
    answer = {"caption": text, "captions": [{"caption": text, "score": -0.5}], "model": model}
    return 200, "application/json", answer


def by_reference(number: int, body: bytes):
    """A captioner that knows each picture's first reference."""
    return captioned(BY_BYTES[body].captions[0])


def command(endpoint, results: Path, *more, meteor: bool = False) -> list[str]:
    more = more if meteor else (*more, "--no-meteor")  # its start takes longer than all the rest
    arguments = ["samples", "photos", "--endpoint", endpoint.url, "--results", results, "--run", "mine", *more]
    return [sys.executable, "-m", "eval.run", *map(str, arguments)]


def run(endpoint, results: Path, *more, meteor: bool = False):
    arguments = command(endpoint, results, *more, meteor=meteor)
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_run_and_what_it_writes(serve, tmp_path):
    endpoint = serve(by_reference)
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
    assert (content["copied"], content["empty"]) == (1.0, 0)
    # Again: one picture is asked for, to see that the model is the same, and so are the scores.
    again = run(endpoint, tmp_path, "--train", "photos", meteor=True)
    assert len(endpoint.seen) == len(IMAGES) + 1
    assert "7 of 7 captions are from the log" in again.stdout
    assert again.stdout.partition("7 of 7")[0] == done.stdout.partition("0 of 7")[0]
    # And from the results file alone.
    arguments = [tmp_path / "mine" / "captions.json", "samples", "photos", "--output", tmp_path / "scored.json"]
    subprocess.run(
        [sys.executable, "-m", "eval.score", *map(str, arguments)], cwd=ROOT, check=True, capture_output=True
    )
    assert json.loads((tmp_path / "scored.json").read_text())["scores"] == content["scores"]


def test_a_run_that_was_done_is_no_other_models(serve, tmp_path):
    assert run(serve(by_reference), tmp_path).returncode == 0
    done = run(serve(lambda number, body: captioned("another", MODEL | {"digest": "sha256:other"})), tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"The endpoint's model has changed from {MODEL['digest']} to sha256:other: name another RUN."
    )
    gone = serve(by_reference)
    gone.close()
    done = run(gone, tmp_path, "--retries", 0)
    assert done.returncode == 0, done.stderr
    assert "still has the same model is not known" in done.stderr


def test_a_harness_killed_at_any_moment_asks_for_nothing_twice(serve, tmp_path):
    """kill -9 after two answers are in the log, one request at a time: at most the one in flight is asked again."""

    def slow(number, body):
        time.sleep(0.4)
        return by_reference(number, body)

    endpoint = serve(slow)
    process = subprocess.Popen(command(endpoint, tmp_path, "--concurrency", 1), cwd=ROOT, stderr=subprocess.DEVNULL)
    log = tmp_path / "mine" / "requests.jsonl"
    eventually(lambda: log.exists() and log.read_text().count('"caption"') >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = log.read_text().count('"caption"')
    with log.open("a") as file:
        file.write('{"image_id": 3, "capt')  # as if it had been in the midst of a line
    before = len(endpoint.seen)
    done = run(endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(endpoint.seen) - before == len(IMAGES) - written
    assert len(json.loads((tmp_path / "mine" / "captions.json").read_text())) == len(IMAGES)


def test_a_server_that_goes_away_and_comes_back(serve, tmp_path):
    def three(number, body):
        if number > 3:
            going.close()  # nobody listens any more
            raise ConnectionError  # and the connection breaks
        return by_reference(number, body)

    going = serve(three)
    done = run(going, tmp_path, "--concurrency", 1, "--retries", 1)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("can't be reached. The same command goes on where it stopped.")
    assert not (tmp_path / "mine" / "scores.json").exists()
    back = serve(by_reference)
    done = run(back, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(back.seen) == len(IMAGES) - 3


def refusal(code: int, type: str) -> tuple[int, str, dict]:
    return code, "application/json", {"code": code, "type": type, "message": f"{type} it is."}


LIES = {
    "refused": (refusal(422, "InvalidImage"), "InvalidImage", 0),
    "broken server": (refusal(500, "InternalError"), "InternalError", 1),
    "no JSON": ((200, "application/json", b"{"), "NoJSON", 1),
    "no caption": ((200, "application/json", {"captions": []}), "NoCaption", 1),
    "a number": ((200, "application/json", {"caption": 7}), "NoCaption", 1),
    "odd captions": ((200, "application/json", b'{"caption": NaN, "captions": 7}'), "NoJSON", 1),
}


def test_failures_are_listed_and_count_as_empty_captions(serve, tmp_path):
    """Each picture but one meets another lie. What was refused for good is not asked for in a second start."""
    lies = dict(zip((image.id for image in IMAGES), LIES.values(), strict=False))
    assert len(lies) == len(LIES) == len(IMAGES) - 1

    def answer(number, body):
        image = BY_BYTES[body]
        return lies[image.id][0] if image.id in lies else by_reference(number, body)

    endpoint = serve(answer)
    done = run(endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    content = json.loads((tmp_path / "mine" / "scores.json").read_text())
    assert {one["image_id"]: one["type"] for one in content["failures"]} == {
        i: kind for i, (_, kind, _) in lies.items()
    }
    captions = read_results(tmp_path / "mine" / "captions.json")
    assert [captions[image.id] for image in IMAGES] == [""] * len(LIES) + [IMAGES[-1].captions[0]]
    assert (content["n"], content["failed"], content["empty"]) == (len(IMAGES), len(LIES), len(LIES))
    assert content["scores"]["Bleu_1"] < 1
    broken = sum(again for _, _, again in LIES.values())
    assert len(endpoint.seen) == len(IMAGES) + broken  # what broke was asked for a second time
    assert run(endpoint, tmp_path).returncode == 0
    assert len(endpoint.seen) == len(IMAGES) + 3 * broken


def test_a_picture_that_breaks_the_connection_holds_up_no_other(serve, tmp_path):
    def breaking(number, body):
        if BY_BYTES[body] is IMAGES[3]:
            raise ConnectionError
        return by_reference(number, body)

    done = run(serve(breaking), tmp_path, "--retries", 1)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "mine" / "scores.json").read_text())
    assert [(one["image_id"], one["type"]) for one in content["failures"]] == [(IMAGES[3].id, "Broken")]


def test_what_broke_once_is_well_the_second_time(serve, tmp_path):
    def once(number, body):
        return refusal(500, "InternalError") if number == 2 else by_reference(number, body)

    done = run(serve(once), tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "mine" / "scores.json").read_text())
    assert (content["failed"], content["empty"]) == (0, 0)
    assert "METEOR was not measured: it was not asked for." in done.stdout
    assert "METEOR" not in content["scores"]
    assert "meteor" not in content["signature"]


def test_an_endpoint_that_captions_nothing(serve, tmp_path):
    done = run(serve(lambda number, body: refusal(400, "UnknownOption")), tmp_path, "beams=3")
    assert done.returncode == 1
    assert done.stderr.endswith("No picture got a caption; the first one's error is: UnknownOption it is.\n")


def test_answers_are_logged_as_they_come(serve):
    """A slow picture holds up none of those beside it."""

    def slow(number, body):
        time.sleep(1.0 if body == b"0" else 0.01)
        return captioned("a dog")

    with Client(serve(slow).url, concurrency=4) as client:
        pictures = [(number, lambda number=number: str(number).encode()) for number in range(6)]
        assert [outcome.key for outcome in client.caption_all(pictures, in_order=False)][-1] == 0
        assert [outcome.key for outcome in client.caption_all(pictures)] == list(range(6))


def test_empty_captions_are_captions(serve, tmp_path):
    done = run(serve(lambda number, body: captioned("" if number % 2 else "a photo")), tmp_path, "--concurrency", 1)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "mine" / "scores.json").read_text())
    assert (content["failed"], content["empty"]) == (0, 4)
    assert content["bad_endings"] == pytest.approx(4 / 7)


def test_a_model_that_changes_under_the_run(serve, tmp_path):
    def changing(number, body):
        return captioned("a dog", MODEL if number < 4 else MODEL | {"digest": "sha256:other"})

    done = run(serve(changing), tmp_path, "--concurrency", 1)
    assert done.returncode == 1
    assert "The endpoint's model has changed from sha256:0123456789abcdef to sha256:other" in done.stderr


def test_a_run_is_of_one_split_and_one_set_of_options(serve, tmp_path):
    endpoint = serve(lambda number, body: captioned("a photo"))
    assert run(endpoint, tmp_path, "beam_size=3").returncode == 0
    assert b'name="beam_size"\r\n\r\n3' in endpoint.seen[0][2]
    assert "beam_size:3|model" in json.loads((tmp_path / "mine" / "scores.json").read_text())["signature"]
    done = run(endpoint, tmp_path, "beam_size=4")
    assert done.returncode == 1
    assert done.stderr.endswith("is of a run with another options: name another RUN.\n")
    assert run(endpoint, tmp_path, "beam_size").stderr == "An option is written name=value, not 'beam_size'.\n"


@pytest.fixture
def twenty(tmp_path) -> tuple[Path, dict[bytes, str]]:
    """A split of twenty grey pictures, and each one's reference by its bytes."""
    root, said = tmp_path / "data", {}
    (root / "grey").mkdir(parents=True)
    (root / "annotations").mkdir()
    words = ["a", "dog", "runs", "through", "the", "green", "grass", "near", "an", "old", "red", "house"]
    for number in range(20):
        path = root / "grey" / f"{number}.png"
        Image.new("L", (8, 8), number).save(path)
        said[path.read_bytes()] = " ".join(words[number % 4 : number % 4 + 8])
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(20)],
        "annotations": [{"id": n, "image_id": n, "caption": text} for n, text in enumerate(said.values())],
    }
    (root / "annotations" / "captions_grey.json").write_text(json.dumps(content))
    return root, said


def test_the_gate(serve, tmp_path, twenty):
    """A run that is worse than its baseline ends with status 3, one that is not with 0."""
    data, said = twenty

    def call(name, answer, *more):
        endpoint = serve(lambda number, body: captioned(answer(said[body])))
        arguments = [data, "grey", "--endpoint", endpoint.url, "--results", tmp_path, "--run", name, *more]
        arguments.append("--no-meteor")
        command = [sys.executable, "-m", "eval.run", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert call("good", str).returncode == 0
    worse = call("bad", lambda text: " ".join(text.split()[:3]), "--baseline", "good")
    assert worse.returncode == 3, worse.stderr
    assert worse.stderr.splitlines()[-1].startswith("Significantly worse than good: Bleu_1, ")
    assert "| metric | good | bad |" in worse.stdout
    itself = call("good", str, "--baseline", "good")
    assert (itself.returncode, itself.stderr) == (1, "A run is no baseline of its own: name another RUN.\n")
    assert call("as good", str, "--baseline", "bad").returncode == 0
    missing = call("x", str, "--baseline", "none")
    assert (missing.returncode, "has no scores.json" in missing.stderr) == (1, True)
    page = tmp_path / "comparison.html"
    arguments = [tmp_path / "good", tmp_path / "bad", data, "grey", "--report", page]
    done = subprocess.run(
        [sys.executable, "-m", "eval.compare", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "| CIDEr |" in done.stdout
    assert " * |" in done.stdout
    assert page.exists()


@pytest.mark.parametrize(
    ("ps", "worse"),
    [
        ({"CIDEr": (-1.0, 0.001), "METEOR": (-1.0, 0.04)}, ["CIDEr", "METEOR"]),  # 0.025, then 0.05
        ({"CIDEr": (-1.0, 0.03), "METEOR": (-1.0, 0.04)}, []),
        ({"CIDEr": (1.0, 0.001), "METEOR": (-1.0, 0.04)}, ["METEOR"]),  # better is no regression
        ({"CIDEr": (-1.0, 0.001), "METEOR": (-1.0, 0.06)}, ["CIDEr"]),
    ],
)
def test_what_counts_as_worse_is_corrected_for_the_number_of_metrics(ps, worse):
    found = {name: Difference(1.0, 1.0 + change, (0.0, 0.0), p) for name, (change, p) in ps.items()}
    assert regressions(Comparison(None, None, found, ({}, {}))) == worse


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not in COCO's results format"),
        ('[{"image_id": 1}]', "not in COCO's results format"),
        ('[{"image_id": 1, "caption": 7}]', "not in COCO's results format"),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]', "has 1 images twice"),
    ],
)
def test_results_that_cant_be_read(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_results(path)
    arguments = [path, "samples", "photos"]
    done = subprocess.run(
        [sys.executable, "-m", "eval.score", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr

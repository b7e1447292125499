"""`python -m eval.caption`: output, result files, resumed commands, messages."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eval.caption import FLAGS, OPTIONS, ResultsWriter, build_parser
from eval.client import CaptionResult
from eval.image_files import find_images
from eval.transports import EndpointError
from handler.generation import GENERATION_OPTIONS
from tests.helpers.paths import ROOT
from tests.helpers.polling import eventually

ANSWER = {"caption": "a dog", "captions": [{"caption": "a dog", "score": -0.5}], "request_id": "7"}
REFUSED = {"code": 422, "type": "InvalidImage", "message": "No image.", "request_id": "8"}
STREAM = b'event: token\ndata: {"token": "a"}\n\nevent: token\ndata: {"token": "dog"}\n\nevent: response\ndata: %s\n\n'


@pytest.fixture
def photos(tmp_path) -> Path:
    directory = tmp_path / "photos"
    (directory / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.PNG", "deep/c.webp", "notes.txt"):
        (directory / name).write_bytes(name.encode())
    return directory


@pytest.fixture
def run(run_main):
    return lambda *arguments: run_main("eval.caption", *arguments)


def test_caption_prints_captions(serve, photos, run):
    server = serve(lambda number, body: (200, "application/json", ANSWER | {"caption": f"a {len(body)}"}))
    done = run(photos, photos / "*.PNG", "--endpoint", server.url)
    lines = [line.rpartition("/")[2] for line in done.stdout.splitlines()]
    assert lines == ["a.jpg: a 5", "b.PNG: a 5", "c.webp: a 11"]
    [line] = run(photos / "a.jpg", "--endpoint", server.url, "--json").stdout.splitlines()
    assert json.loads(line)["request_id"] == "7"


def test_caption_passes_options_on(serve, photos, run):
    """The command knows the names of options and leaves their values to the endpoint."""
    server = serve(lambda number, body: (200, "application/json", ANSWER))
    done = run(photos / "a.jpg", "--endpoint", server.url, "--beam-size", 5, "--top-p", "much", "--attention")
    assert (done.returncode, done.stdout) == (0, "a dog\n")
    for field in (b'"beam_size"\r\n\r\n5\r\n', b'"top_p"\r\n\r\nmuch\r\n', b'"attention"\r\n\r\ntrue\r\n'):
        assert field in server.seen[0][2]


def test_caption_prints_tokens_of_a_stream(serve, photos, run):
    stream = serve(lambda number, body: (200, "text/event-stream", STREAM % json.dumps(ANSWER).encode()))
    assert run(photos / "a.jpg", "--endpoint", stream.url, "--stream").stdout == "a dog \n"


def test_caption_module_runs_as_documented(serve, photos):
    server = serve(lambda number, body: (200, "application/json", ANSWER))
    command = [sys.executable, "-m", "eval.caption", photos / "a.jpg", "--endpoint", server.url]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout == "a dog\n"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_caption_output_resumes(serve, photos, tmp_path, run, suffix):
    """Some images are done, one has failed, a line is truncated: only the missing image is requested."""
    output = tmp_path / f"out{suffix}"
    failing = serve(
        lambda number, body: (
            (422, "application/json", REFUSED) if body == b"b.PNG" else (200, "application/json", ANSWER)
        )
    )
    done = run(photos, "--endpoint", failing.url, "--output", output, "--concurrency", 1)
    assert done.returncode == 1
    assert done.stderr.endswith("1 of 3 images have no caption.\n")
    content = output.read_text()
    output.write_text(content + ('{"image": "x", "capt' if suffix == ".jsonl" else '"x,'))
    working = serve(lambda number, body: (200, "application/json", ANSWER))
    done = run(photos, "--endpoint", working.url, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "has captions of 2 of 3 images" in done.stderr
    assert [body for _, _, body in working.seen] == [b"b.PNG"]
    lines = output.read_text().splitlines()
    if suffix == ".csv":
        assert lines[0] == "image,caption,score,options,error"
        expected = [f"{photos}/{name},a dog,-0.5,{{}}," for name in ("a.jpg", "b.PNG", "deep/c.webp")]
        assert sorted(lines[1:]) == expected
    else:
        assert sorted(json.loads(line)["image"] for line in lines) == find_images([str(photos)])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize(
    "name", ['a, "b".jpg', "new\nline.jpg", b"bad\xff.jpg".decode(errors="surrogateescape"), "image"]
)
def test_results_writer_reopened_keeps_captions_and_removes_failures(tmp_path, suffix, name):
    path = tmp_path / f"out{suffix}"
    with ResultsWriter.open(path, {"beam_size": 3}) as writer:
        writer.add(CaptionResult(name, {"caption": 'he said "no", then left', "captions": []}, 0.1))
        writer.add(CaptionResult("c.jpg", EndpointError(422, "InvalidImage", "No image."), 0.1))
    content = path.read_bytes()
    path.write_bytes(content + '{"image": "é'.encode()[:-1])  # truncated within a character
    with ResultsWriter.open(path, {"beam_size": 3}) as writer:
        assert writer.done == {name}
    assert content.startswith(path.read_bytes())  # without the failure
    for options in ({"beam_size": 4}, {}):
        with pytest.raises(ValueError, match="captions with other options"):
            ResultsWriter.open(path, options)
    assert content.startswith(path.read_bytes())


@pytest.mark.parametrize(
    "content", ["my,notes\n1,2\n", "hello\n", "one line", '{"a": 1}\n', "[1]\n", '{"image": "a.jpg"}\n']
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_results_writer_leaves_other_files_unchanged(tmp_path, suffix, content):
    path = tmp_path / f"notes{suffix}"
    path.write_text(content)
    with pytest.raises(ValueError, match="has other content than captions"):
        ResultsWriter.open(path, {})
    assert path.read_text() == content


@pytest.mark.parametrize("option", ["--concurrency=0", "--timeout=0", "--retries=-1", "--endpoint=http://["])
def test_caption_invalid_argument_exits_with_one_sentence(photos, run, option):
    done = run(photos, option)
    assert done.returncode == 1
    assert done.stderr.strip()


def test_caption_missing_image_exits_with_one_sentence(photos, run):
    done = run(photos / "none*", "--endpoint", "127.0.0.1:9")
    assert (done.returncode, done.stderr) == (1, f"No image found at {photos}/none*.\n")


def test_caption_interrupted_during_backoff_says_how_to_resume(photos, tmp_path):
    command = [
        sys.executable,
        "-m",
        "eval.caption",
        photos,
        "--endpoint",
        "127.0.0.1:9",
        "--retries",
        "99",
        "--output",
        tmp_path / "o.csv",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    eventually((tmp_path / "o.csv").exists)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 1
    assert process.stderr.read().endswith("Stopped. Run the same command again to resume.\n")


def test_options_are_those_of_the_endpoint():
    """The client imports nothing of the handler, so its flags are held against the handler here."""
    assert {*OPTIONS, *FLAGS} == GENERATION_OPTIONS.keys()
    assert {*FLAGS} == {name for name, option in GENERATION_OPTIONS.items() if option.type is bool}


@pytest.mark.parametrize(
    ("flags", "expected"), [([], None), (["--no-repeat-words"], True), (["--repeat-words"], False)]
)
def test_flag_of_an_option_is_unset_unless_given(flags, expected):
    assert build_parser().parse_args(["photo.jpg", *flags]).no_repeat_words is expected

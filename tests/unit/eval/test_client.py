"""The client against a server that is busy, breaks off, or speaks nonsense; and its command."""

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eval.caption import Lines, find_images
from eval.client import CaptionResult, Client
from eval.transports import Busy, EndpointError, Unreachable
from tests.helpers.paths import ROOT
from tests.helpers.polling import eventually

ANSWER = {"caption": "a dog", "captions": [{"caption": "a dog", "score": -0.5}], "request_id": "7"}
REFUSED = {"code": 422, "type": "InvalidImage", "message": "No picture.", "request_id": "8"}


def always(code, content, kind="application/json"):
    return lambda number, body: (code, kind, content)


def test_a_picture_alone_is_the_body_and_with_options_a_form(serve):
    server = serve(always(200, ANSWER))
    with Client(server.url, token="secret") as client:  # noqa: S106
        assert client.caption(b"picture") == ANSWER
        assert client.caption(b"picture", beam_size=3, attention=True) == ANSWER
    (path, headers, raw), (_, _, form) = server.seen
    assert (path, headers["Authorization"], raw) == ("/predictions/captioner", "Bearer secret", b"picture")
    for part in (b'name="beam_size"\r\n\r\n3\r\n', b'name="attention"\r\n\r\ntrue\r\n', b"\r\n\r\npicture\r\n"):
        assert part in form


def test_a_url_of_ones_own_is_kept(serve):
    server = serve(always(200, ANSWER))
    with Client(f"{server.url}/behind/a/proxy") as client:
        client.caption(b"x")
    assert server.seen[0][0] == "/behind/a/proxy"


def test_a_busy_endpoint_is_asked_again_and_a_refusal_is_not(serve, monkeypatch):
    pauses = []
    server = serve(lambda number, body: (200, "application/json", ANSWER) if number == 4 else (503, "text/plain", b""))
    with Client(server.url) as client:
        monkeypatch.setattr(client._stopped, "wait", pauses.append)
        assert client.caption(b"x") == ANSWER
    assert len(server.seen) == 4
    assert len(pauses) == 3
    assert all(0.05 <= pause <= 0.1 * 2 ** (number + 1) for number, pause in enumerate(pauses))
    server = serve(always(503, b"", "text/plain"))
    with Client(server.url, retries=2) as client, pytest.raises(Busy) as caught:
        client.caption(b"x")
    assert (caught.value.code, len(server.seen)) == (503, 3)
    server = serve(always(422, REFUSED))
    with Client(server.url) as client, pytest.raises(EndpointError, match="No picture") as caught:
        client.caption(b"x")
    assert (caught.value.code, caught.value.type, caught.value.request_id) == (422, "InvalidImage", "8")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("code", "content", "kind", "type", "message"),
    [
        (200, b"{", "application/json", "NoJSON", "The answer is no JSON."),
        (200, [1], "application/json", "NoCaption", "The answer holds no caption."),
        (200, {"caption": 7}, "application/json", "NoCaption", "The answer holds no caption."),
        (200, REFUSED, "application/json", "InvalidImage", "No picture."),  # as over gRPC
        (413, b"", "text/plain", "Request Entity Too Large", "HTTP 413."),
        (404, {"code": 404, "type": "ModelNotFoundException", "message": "?"}, "application/json",
         "ModelNotFoundException", "?"),
    ],
)  # fmt: skip
def test_answers_that_are_none(serve, code, content, kind, type, message):
    with Client(serve(always(code, content, kind)).url) as client, pytest.raises(EndpointError) as caught:
        client.caption(b"x")
    assert (caught.value.type, str(caught.value)) == (type, message)


def test_nobody_there_and_no_answer_in_time(serve):
    with Client("127.0.0.1:9", retries=1) as client, pytest.raises(Unreachable, match="can't be reached"):
        client.caption(b"x")
    began, asked = time.monotonic(), []
    pictures = ((number, lambda: asked.append(1) or b"x") for number in range(1000))
    with Client("127.0.0.1:9", retries=2, concurrency=4) as client, pytest.raises(Unreachable):
        list(client.caption_all(pictures))
    assert len(asked) < 20  # nobody goes on asking
    assert time.monotonic() - began < 30
    gate = threading.Event()

    def late(number, body):
        gate.wait(10)
        return 200, "application/json", ANSWER

    server = serve(late)
    with Client(server.url, timeout=0.3) as client, pytest.raises(EndpointError, match=r"No answer came in 0\.3"):
        client.caption(b"x")
    gate.set()
    assert len(server.seen) == 1
    with pytest.raises(ValueError, match="rest or grpc, not soap"):
        Client(protocol="soap")


def test_a_server_that_drips_or_never_ends(serve, monkeypatch):
    """One sends a byte now and then, so that no read is ever late; the other sends more than anybody wants."""

    class Dripping(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with suppress(OSError):
                for _ in range(40):
                    self.wfile.write(b" " * (1 if self.path.endswith("slow") else 25_000))
                    self.wfile.flush()
                    time.sleep(0.1 if self.path.endswith("slow") else 0)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setattr("eval.transports.MAX_MESSAGE", 100_000)
    try:
        began = time.monotonic()
        with Client(f"{url}/slow", timeout=0.5) as client, pytest.raises(EndpointError, match=r"came in 0\.5 seconds"):
            client.caption(b"x")
        assert time.monotonic() - began < 3.5  # the whole of it would take 4
        with Client(f"{url}/long") as client, pytest.raises(EndpointError, match="more than 100000 bytes"):
            client.caption(b"x")
    finally:
        http.shutdown()
        http.server_close()


STREAM = b'event: token\ndata: {"token": "a"}\n\nevent: token\ndata: {"token": "dog"}\n\nevent: response\ndata: %s\n\n'


def test_streams(serve):
    good = (200, "text/event-stream", STREAM % json.dumps(ANSWER).encode())
    server = serve(lambda number, body: good if number > 1 else (503, "text/plain", b""))
    with Client(server.url) as client:
        assert list(client.stream(b"x")) == [{"token": "a"}, {"token": "dog"}, ANSWER]
    assert b'name="stream"\r\n\r\ntrue' in server.seen[1][2]
    for answer, message in (
        ((422, "application/json", REFUSED), "No picture."),
        ((200, "text/event-stream", STREAM % json.dumps(REFUSED).encode()), "No picture."),
        ((200, "text/event-stream", STREAM.partition(b"event: response")[0]), "The stream ended without its answer."),
        ((200, "text/event-stream", b"data: {\n\n"), "The answer is no JSON."),
        ((200, "text/event-stream", b""), "The stream ended without its answer."),
    ):
        server = serve(always(answer[0], answer[2], answer[1]))
        with Client(server.url) as client, pytest.raises(EndpointError) as caught:
            list(client.stream(b"x"))
        assert str(caught.value) == message


def test_many_in_their_order_so_many_at_once_and_none_read_too_early(serve):
    running, most, lock = 0, 0, threading.Lock()

    def slow(number, body):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05 if number % 3 else 0.15)
        with lock:
            running -= 1
        return (
            (422, "application/json", REFUSED)
            if body == b"7"
            else (200, "application/json", ANSWER | {"caption": body.decode()})
        )

    read = []

    def picture(number):
        def bytes_of():
            if number == 5:
                raise FileNotFoundError(2, "No such file")
            return str(number).encode()

        read.append(number)
        return number, bytes_of

    with Client(serve(slow).url, concurrency=4) as client:
        found = []
        for outcome in client.caption_all(picture(number) for number in range(20)):
            found.append(outcome)
            assert len(read) <= len(found) + 9
    assert most == 4
    assert [outcome.key for outcome in found] == list(range(20))
    assert all(outcome.seconds > 0 for outcome in found)
    kinds = {outcome.key: outcome.result.type for outcome in found if isinstance(outcome.result, EndpointError)}
    assert kinds == {5: "Unreadable", 7: "InvalidImage"}
    assert found[9].result["caption"] == "9"


def run(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "eval.client", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.PNG", "deep/c.webp", "notes.txt"):
        (folder / name).write_bytes(name.encode())
    return folder


def test_the_command_prints_captions(serve, pictures):
    server = serve(lambda number, body: (200, "application/json", ANSWER | {"caption": f"a {len(body)}"}))
    done = run(pictures / "a.jpg", "--endpoint", server.url, "--beam-size", 5)
    assert (done.returncode, done.stdout) == (0, f"a {len(server.seen[0][2])}\n")
    assert b'name="beam_size"\r\n\r\n5\r\n' in server.seen[0][2]
    done = run(pictures, pictures / "*.PNG", "--endpoint", server.url)
    assert [line.rpartition("/")[2] for line in done.stdout.splitlines()] == [
        "a.jpg: a 5",
        "b.PNG: a 5",
        "c.webp: a 11",
    ]
    [line] = run(pictures / "a.jpg", "--endpoint", server.url, "--json").stdout.splitlines()
    assert json.loads(line)["request_id"] == "7"
    done = run(pictures / "none*", "--endpoint", server.url)
    assert (done.returncode, done.stderr) == (1, f"There is no picture at {pictures}/none*.\n")
    stream = serve(always(200, STREAM % json.dumps(ANSWER).encode(), "text/event-stream"))
    assert run(pictures / "a.jpg", "--endpoint", stream.url, "--stream").stdout == "a dog \n"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_the_command_goes_on_where_it_broke_off(serve, pictures, tmp_path, suffix):
    """Some pictures done, one failed, a line broken off: only what is missing is asked for."""
    output = tmp_path / f"out{suffix}"
    broken = serve(
        lambda number, body: (
            (422, "application/json", REFUSED) if body == b"b.PNG" else (200, "application/json", ANSWER)
        )
    )
    done = run(pictures, "--endpoint", broken.url, "--output", output, "--concurrency", 1)
    assert done.returncode == 1
    assert done.stderr.endswith("1 of 3 pictures have no caption.\n")
    whole = output.read_text()
    output.write_text(whole + '{"image": "x", "capt' if suffix == ".jsonl" else whole + '"x,')
    mended = serve(always(200, ANSWER))
    done = run(pictures, "--endpoint", mended.url, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 pictures are in" in done.stderr
    assert [body for _, _, body in mended.seen] == [b"b.PNG"]
    lines = output.read_text().splitlines()
    if suffix == ".csv":
        assert lines[0] == "image,caption,score,options,error"
        expected = [f"{pictures}/{name},a dog,-0.5,{{}}," for name in ("a.jpg", "b.PNG", "deep/c.webp")]
        assert sorted(lines[1:]) == expected
    else:
        assert sorted(json.loads(line)["image"] for line in lines) == find_images([str(pictures)])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize(
    "name", ['a, "b".jpg', "new\nline.jpg", b"bad\xff.jpg".decode(errors="surrogateescape"), "image"]
)
def test_a_file_of_results_survives_what_is_in_it(tmp_path, suffix, name):
    path = tmp_path / f"out{suffix}"
    lines = Lines(path, {"beam_size": 3})
    lines.add(CaptionResult(name, {"caption": 'he said "no", then left', "captions": []}, 0.1))
    lines.add(CaptionResult("c.jpg", EndpointError(422, "InvalidImage", "No picture."), 0.1))
    lines.close()
    kept = path.read_bytes()
    path.write_bytes(kept + '{"image": "é'.encode()[:-1])  # broken off within a letter
    again = Lines(path, {"beam_size": 3})
    again.close()
    assert again.done == {name}
    assert kept.startswith(path.read_bytes())  # without the failure
    for options, message in (({"beam_size": 4}, "captions of other options"), ({}, "captions of other options")):
        with pytest.raises(ValueError, match=message):
            Lines(path, options)
    assert kept.startswith(path.read_bytes())


@pytest.mark.parametrize("content", ["my,notes\n1,2\n", "hello\n", '{"a": 1}\n', "[1]\n", '{"image": "a.jpg"}\n'])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_of_something_else_is_left_alone(tmp_path, suffix, content):
    path = tmp_path / f"notes{suffix}"
    path.write_text(content)
    with pytest.raises(ValueError, match="holds something else than captions"):
        Lines(path, {})
    assert path.read_text() == content


@pytest.mark.parametrize("option", ["--concurrency=0", "--timeout=0", "--retries=-1", "--endpoint=http://["])
def test_the_command_says_what_is_wrong_in_a_sentence(pictures, option):
    done = run(pictures, option)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


def test_ctrl_c_is_obeyed_while_the_server_is_down(pictures, tmp_path):
    command = [
        sys.executable,
        "-m",
        "eval.client",
        pictures,
        "--endpoint",
        "127.0.0.1:9",
        "--output",
        tmp_path / "o.csv",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    eventually((tmp_path / "o.csv").exists)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 1
    assert process.stderr.read().endswith("Stopped. The same command goes on where it stopped.\n")


def test_every_picture_once(pictures):
    found = find_images([str(pictures / "a.jpg"), str(pictures), f"{pictures}/**/*.webp"])
    assert [Path(path).name for path in found] == ["a.jpg", "b.PNG", "c.webp"]
    assert find_images([str(pictures / "notes.txt")]) == [str(pictures / "notes.txt")]  # named, so meant

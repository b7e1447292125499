"""Client against servers that are busy, fail, or send invalid responses."""

import json
import socket
import struct
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eval.client import Client
from eval.transports import Busy, EndpointError, Unreachable

ANSWER = {"caption": "a dog", "captions": [{"caption": "a dog", "score": -0.5}], "request_id": "7"}
REFUSED = {"code": 422, "type": "InvalidImage", "message": "No image.", "request_id": "8"}


def always(code, content, kind="application/json"):
    return lambda number, body: (code, kind, content)


def test_client_sends_image_as_body_and_with_options_as_form(serve):
    server = serve(always(200, ANSWER))
    with Client(server.url, token="secret") as client:  # noqa: S106
        assert client.caption(b"image") == ANSWER
        assert client.caption(b"image", beam_size=3, attention=True) == ANSWER
    (path, headers, raw), (_, _, form) = server.seen
    assert (path, headers["Authorization"], raw) == ("/predictions/captioner", "Bearer secret", b"image")
    for part in (b'name="beam_size"\r\n\r\n3\r\n', b'name="attention"\r\n\r\ntrue\r\n', b"\r\n\r\nimage\r\n"):
        assert part in form


def test_client_url_with_path_is_used_unchanged(serve):
    server = serve(always(200, ANSWER))
    with Client(f"{server.url}/behind/a/proxy") as client:
        client.caption(b"x")
    assert server.seen[0][0] == "/behind/a/proxy"


def test_client_busy_endpoint_is_retried_with_backoff(serve, monkeypatch):
    delays = []
    server = serve(lambda number, body: (200, "application/json", ANSWER) if number == 4 else (503, "text/plain", b""))
    with Client(server.url) as client:
        monkeypatch.setattr(client._closed, "wait", delays.append)
        assert client.caption(b"x") == ANSWER
    assert len(server.seen) == 4
    assert len(delays) == 3
    assert all(0.05 <= delay <= 0.1 * 2 ** (number + 1) for number, delay in enumerate(delays))


def test_client_endpoint_that_stays_busy_raises_after_retries(serve):
    server = serve(always(503, b"", "text/plain"))
    with Client(server.url, retries=2) as client, pytest.raises(Busy) as caught:
        client.caption(b"x")
    assert (caught.value.code, len(server.seen)) == (503, 3)


def test_client_refusal_is_not_retried(serve):
    server = serve(always(422, REFUSED))
    with Client(server.url) as client, pytest.raises(EndpointError, match="No image") as caught:
        client.caption(b"x")
    assert (caught.value.code, caught.value.type, caught.value.request_id) == (422, "InvalidImage", "8")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("code", "content", "kind", "type", "message"),
    [
        (200, b"{", "application/json", "NoJSON", "The response is not valid JSON."),
        (200, [1], "application/json", "NoCaption", "The response holds no caption."),
        (200, {"caption": 7}, "application/json", "NoCaption", "The response holds no caption."),
        (200, REFUSED, "application/json", "InvalidImage", "No image."),  # as over gRPC
        (
            413,
            b"",
            "text/plain",
            "TooLarge",
            "The request has 0.0 MB, more than the server or a proxy before it accepts. Send a smaller image, or raise "
            "max_request_size in config.properties, which is 41.9 MB as shipped.",
        ),
        (413, REFUSED | {"code": 413}, "application/json", "InvalidImage", "No image."),
        (
            404,
            {"code": 404, "type": "ModelNotFoundException", "message": "?"},
            "application/json",
            "ModelNotFoundException",
            "?",
        ),
    ],
)
def test_client_invalid_response_raises(serve, code, content, kind, type, message):
    with Client(serve(always(code, content, kind)).url) as client, pytest.raises(EndpointError) as caught:
        client.caption(b"x")
    assert (caught.value.type, str(caught.value)) == (type, message)


def test_client_unreachable_endpoint_raises():
    with Client("127.0.0.1:9", retries=1) as client, pytest.raises(Unreachable, match="Cannot connect to"):
        client.caption(b"x")


def test_caption_all_unreachable_endpoint_stops_early():
    start, read = time.monotonic(), []
    images = ((number, lambda: read.append(1) or b"x") for number in range(1000))
    with Client("127.0.0.1:9", retries=2, concurrency=4) as client, pytest.raises(Unreachable):
        list(client.caption_all(images))
    assert len(read) < 20
    assert time.monotonic() - start < 30


def test_client_late_response_raises_and_is_not_retried(serve):
    gate = threading.Event()

    def late(number, body):
        gate.wait(10)
        return 200, "application/json", ANSWER

    server = serve(late)
    with Client(server.url, timeout=0.3) as client, pytest.raises(EndpointError, match=r"No response within 0\.3 sec"):
        client.caption(b"x")
    gate.set()
    assert len(server.seen) == 1


def test_client_whose_large_body_is_cut_off_says_what_is_too_large(monkeypatch):
    """TorchServe closes the connection while the client still sends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def close_at_once():
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        threading.Thread(target=close_at_once, daemon=True).start()
        monkeypatch.setattr("eval.transports.MAX_REQUEST", 10_000_000)
        with Client(f"127.0.0.1:{listener.getsockname()[1]}") as client, pytest.raises(EndpointError) as caught:
            client.caption(bytes(20_000_000))
    assert (caught.value.code, caught.value.type) == (413, "TooLarge")
    assert str(caught.value).startswith("The request has 20.0 MB")


def test_client_busy_endpoint_repeats_the_reason_of_the_server(serve):
    reason = {"code": 503, "type": "ServiceUnavailableException", "message": 'Model "captioner" has no worker.'}
    with Client(serve(always(503, reason, "application/json")).url, retries=0) as client, pytest.raises(Busy) as caught:
        client.caption(b"x")
    assert str(caught.value) == 'The endpoint is busy (HTTP 503): Model "captioner" has no worker.'


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_client_token_with_white_space_around_it_is_cleaned(protocol):
    with Client(protocol=protocol, token=" secret\r\n") as client:  # noqa: S106
        headers = dict(client.transport.metadata) if protocol == "grpc" else client.transport.session.headers
    assert headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("token", ["two\nsecrets", "a secret", "sécret", "secret\0"])
@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_client_token_that_no_header_can_carry_is_refused_and_not_shown(protocol, token):
    with pytest.raises(ValueError, match="The token has a space, a line break") as caught:
        Client(protocol=protocol, token=token)
    assert token[-5:] not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "soap"}, "rest or grpc, not soap"),
        ({"timeout": 0}, "timeout must be at least"),
        ({"retries": -1}, "retries must be at least"),
        ({"concurrency": 0}, "concurrency must be at least"),
    ],
)
def test_client_invalid_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Client(**arguments)


def test_client_slow_or_endless_response_raises(serve, monkeypatch):
    """One server sends single bytes, so that no single read times out; the other sends too many."""

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
    monkeypatch.setattr("eval.transports.MAX_RESPONSE", 100_000)
    try:
        start = time.monotonic()
        with Client(f"{url}/slow", timeout=0.5) as client, pytest.raises(EndpointError, match=r"within 0\.5 seconds"):
            client.caption(b"x")
        assert time.monotonic() - start < 3.5  # the whole of it would take 4
        with Client(f"{url}/long") as client, pytest.raises(EndpointError, match="more than 100000 bytes"):
            client.caption(b"x")
    finally:
        http.shutdown()
        http.server_close()


STREAM = b'event: token\ndata: {"token": "a"}\n\nevent: token\ndata: {"token": "dog"}\n\nevent: response\ndata: %s\n\n'


def test_client_stream_yields_tokens_and_response_and_raises_errors(serve):
    good = (200, "text/event-stream", STREAM % json.dumps(ANSWER).encode())
    server = serve(lambda number, body: good if number > 1 else (503, "text/plain", b""))
    with Client(server.url) as client:
        assert list(client.stream(b"x")) == [{"token": "a"}, {"token": "dog"}, ANSWER]
    assert b'name="stream"\r\n\r\ntrue' in server.seen[1][2]
    for answer, message in (
        ((422, "application/json", REFUSED), "No image."),
        ((200, "text/event-stream", STREAM % json.dumps(REFUSED).encode()), "No image."),
        (
            (200, "text/event-stream", STREAM.partition(b"event: response")[0]),
            "The stream ended without the whole response.",
        ),
        ((200, "text/event-stream", b"data: {\n\n"), "The response is not valid JSON."),
        ((200, "text/event-stream", b""), "The stream ended without the whole response."),
    ):
        server = serve(always(answer[0], answer[2], answer[1]))
        with Client(server.url) as client, pytest.raises(EndpointError) as caught:
            list(client.stream(b"x"))
        assert str(caught.value) == message


def test_caption_all_is_ordered_concurrent_and_reads_images_late(serve):
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

    def image(number):
        def bytes_of():
            if number == 5:
                raise FileNotFoundError(2, "No such file")
            return str(number).encode()

        read.append(number)
        return number, bytes_of

    with Client(serve(slow).url, concurrency=4) as client:
        found = []
        for result in client.caption_all(image(number) for number in range(20)):
            found.append(result)
            assert len(read) <= len(found) + 9
    assert most == 4
    assert [result.key for result in found] == list(range(20))
    assert all(result.seconds > 0 for result in found)
    kinds = {result.key: result.response.type for result in found if isinstance(result.response, EndpointError)}
    assert kinds == {5: "Unreadable", 7: "InvalidImage"}
    assert found[9].response["caption"] == "9"


def test_caption_all_out_of_order_yields_results_as_they_complete(serve):
    def slow_first(number, body):
        time.sleep(0.5 if body == b"0" else 0.01)
        return 200, "application/json", ANSWER

    images = [(number, lambda number=number: str(number).encode()) for number in range(6)]
    with Client(serve(slow_first).url, concurrency=4) as client:
        assert [result.key for result in client.caption_all(images, in_order=False)][-1] == 0
        assert [result.key for result in client.caption_all(images)] == list(range(6))

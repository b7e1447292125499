"""Adversarial images and requests against a real server: no 5xx, and no effect on other requests."""

import json
import socket
from dataclasses import replace
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest
import requests

from tests.adversarial import IMAGE_CASES, REQUEST_CASES, grpc_cases, sampled
from tests.adversarial.runner import RunReport, run_cases, workers
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS
from tests.helpers.servers import running_server

pytestmark = pytest.mark.adversarial
SECONDS = 20  # for a response, with that of the valid image beside it; on an idle machine the longest takes 3
MEMORY = 900  # MB that the worker may grow by: an image of 50 megapixels takes 350, its file and JSON the rest


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A tiny model behind TorchServe."""
    with running_server(
        tmp_path_factory.mktemp("adversarial"), write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    ) as server:
        yield server


@pytest.fixture(scope="module")
def report(server) -> RunReport:
    """Responses to a part of the cases; tests/unit/handler/test_adversarial.py has them all in its process."""
    cases = [*sampled(IMAGE_CASES), *sampled(REQUEST_CASES)]
    assert {case.kind for case in cases} == {case.kind for case in [*IMAGE_CASES, *REQUEST_CASES]}
    return run_cases(server, PHOTOS[0].read_bytes(), grpc_cases(), cases)


def test_cases_get_the_expected_responses(report):
    unexpected = [result for result in report.results if result.outcome not in result.case.answers]
    assert [(str(result.case), result.code, result.outcome) for result in unexpected] == []
    assert report.faults() == []


def test_valid_images_beside_the_cases_get_the_same_caption(report):
    assert len({result.neighbour for result in report.results}) == 1
    assert " " in report.results[0].neighbour


def test_report_lists_the_faults(report):
    first, second = report.results[:2]
    worst = first._replace(code=507, leaks=True, neighbour="another caption")
    assert replace(report, results=[worst, second], deaths=2).faults() == [
        f"'{first.case}' was answered with 507.",
        f"The response to '{first.case}' shows server internals.",
        "The valid images did not all get the same caption.",
        "2 workers ended.",
    ]


def test_worker_stays_within_its_limits_of_memory_and_time(server, report):
    assert report.deaths == 0
    assert report.peak - report.before < MEMORY
    assert max(result.seconds for result in report.results) < SECONDS
    log = (server.logs / "model_log.log").read_text(errors="replace")
    assert "could not be read" not in log
    assert "could not be prepared" not in log
    assert "could not be captioned" not in log


def test_report_table_has_a_row_for_each_kind(report):
    rows = report.table().splitlines()
    assert rows[2].startswith(f"| valid | {sum(result.case.kind == 'valid' for result in report.results)} | ")
    assert "Workers that ended: 0." in rows[-1]


def send(server, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes on a new connection, and return the code, headers and body of the response."""
    address = urlsplit(server.inference)
    with socket.create_connection((address.hostname, address.port), timeout=SECONDS) as connection:
        connection.sendall(sent)
        response = HTTPResponse(connection)
        response.begin()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


PATH = b"/predictions/captioner"
IMAGE = PHOTOS[0].read_bytes()
LENGTH = b"Content-Length: %d\r\n" % len(IMAGE)


def test_http_1_0_request_is_answered_as_http_1_1(server):
    """HTTP 1.0 needs no `Host`, so that only the headers tell the request from one over gRPC."""
    sent = b"POST %b HTTP/1.0\r\n%bContent-Type: image/jpeg\r\n\r\n" % (PATH, LENGTH) + IMAGE
    code, headers, body = send(server, sent)
    assert (code, headers["content-type"]) == (200, "application/json")
    assert "ts_stream_next" not in headers
    assert json.loads(body)["caption"]
    form = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    form = b"".join(form % part for part in ((b"image", IMAGE), (b"stream", b"true"))) + b"--x--\r\n"
    sent = b"POST %b HTTP/1.0\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"
    code, headers, body = send(server, sent % (PATH, len(form)) + form)
    assert (code, headers["content-type"]) == (200, "text/event-stream")
    assert b"event: response" in body
    code, headers, body = send(server, b"GET %b HTTP/1.0\r\nAccept: text/html\r\n\r\n" % PATH)
    assert (code, headers["content-type"]) == (200, "text/html; charset=utf-8")
    code, headers, body = send(server, b"GET %b HTTP/1.0\r\n\r\n" % PATH)
    assert (code, json.loads(body)["type"]) == (400, "EmptyBody")


@pytest.mark.parametrize(
    "header",
    [
        b"X: \xff\xfe",
        b"\xc3\xa9: x",
        b"X: " + b"x" * 7000,
        b"describe: maybe",
        b"explain: yes",
        b"image: x",
        b"ts_stream_next: true",
        b"Traceparent: 00-\xff",
        b"Accept: " + b"text/html," * 500,
        b"Content-Type: \xff",
        b"Content-Type: application/json; charset=\xff",
        b"Content-Type: multipart/form-data",
        b"Content-Type: multipart/form-data; boundary=" + b"x" * 3000,
        b"Expect: 100-continue",
        b"Transfer-Encoding: chunked",
    ],
    ids=lambda header: header.decode("latin-1")[:40],
)
def test_malformed_header_harms_no_worker(server, header):
    before = workers(server)
    sent = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n%b\r\n" % (PATH, header, LENGTH)
    code, _, body = send(server, sent + IMAGE)
    assert code < 500, body
    assert workers(server) == before


@pytest.mark.parametrize("name", [b"\xff\xfe", b"", b'a"; name="image', b"x" * 5000, b"image\0"])
def test_malformed_field_name_harms_no_worker(server, name):
    """TorchServe itself answers a field without a name with a 500; no worker sees it."""
    before = workers(server)
    form = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--x--\r\n' % (name, IMAGE)
    sent = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    code, _, body = send(server, sent % PATH + b"Content-Length: %d\r\n\r\n" % len(form) + form)
    assert code < 500 or (name == b"" and b"empty name" in body), body
    assert workers(server) == before


def test_connections_closed_early_harm_no_later_request(server):
    """The rest of a body never arrives; later requests are answered."""
    for _ in range(20):
        address = urlsplit(server.inference)
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            connection.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (PATH, LENGTH) + IMAGE[:1000])
    assert requests.post(f"{server.inference}{PATH.decode()}", data=IMAGE, timeout=60).json()["caption"]

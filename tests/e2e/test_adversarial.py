"""All that is hostile against one real server: nothing is answered with a 5xx, and nobody beside it is harmed."""

import json
import socket
from dataclasses import replace
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest
import requests

from tests.adversarial import grpc_cases
from tests.adversarial.runner import run_cases, workers
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS
from tests.helpers.servers import running_server

SECONDS = 20  # for an answer, the good picture's beside it within; on an idle machine the longest takes 3
MEMORY = 900  # MB that the worker may grow by: a picture of 50 megapixels takes 350, its file and JSON the rest


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A tiny model behind TorchServe."""
    with running_server(
        tmp_path_factory.mktemp("hostile"), write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    ) as server:
        yield server


@pytest.fixture(scope="module")
def stormed(server):
    return run_cases(server, PHOTOS[0].read_bytes(), grpc_cases())


def test_cases_get_the_expected_responses(stormed):
    assert [(str(one.case), one.code, one.outcome) for one in stormed.came if one.outcome not in one.case.answers] == []
    assert stormed.faults() == []


def test_valid_images_beside_the_cases_get_the_same_caption(stormed):
    assert len({one.neighbour for one in stormed.came}) == 1
    assert " " in stormed.came[0].neighbour


def test_report_lists_the_faults(stormed):
    first, second = stormed.came[:2]
    worst = first._replace(code=507, leaks=True, neighbour="another caption")
    assert replace(stormed, came=[worst, second], deaths=2).faults() == [
        f"'{first.case}' was answered with 507.",
        f"The answer to '{first.case}' shows the server's inside.",
        "The good pictures beside them did not all get the same caption.",
        "2 workers ended.",
    ]


def test_worker_stays_within_its_limits_of_memory_and_time(server, stormed):
    assert stormed.deaths == 0
    assert stormed.peak - stormed.before < MEMORY
    assert max(one.seconds for one in stormed.came) < SECONDS
    log = (server.logs / "model_log.log").read_text(errors="replace")
    assert "could not be read" not in log
    assert "could not be prepared" not in log
    assert "could not be captioned" not in log


def test_report_table_has_a_row_for_each_kind(stormed):
    rows = stormed.table().splitlines()
    assert rows[2].startswith(f"| fine | {sum(one.case.kind == 'fine' for one in stormed.came)} | ")
    assert "Workers that ended: 0." in rows[-1]


def spoken(server, said: bytes) -> tuple[int, dict[str, str], bytes]:
    """The code, headers and body that bytes on a connection of their own are answered with."""
    address = urlsplit(server.inference)
    with socket.create_connection((address.hostname, address.port), timeout=SECONDS) as connection:
        connection.sendall(said)
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


PATH = b"/predictions/captioner"
PICTURE = PHOTOS[0].read_bytes()
LENGTH = b"Content-Length: %d\r\n" % len(PICTURE)


def test_http_1_0_request_is_answered_as_http_1_1(server):
    """It need not have a `Host`, so that nothing but its headers tells that it is not gRPC."""
    said = b"POST %b HTTP/1.0\r\n%bContent-Type: image/jpeg\r\n\r\n" % (PATH, LENGTH) + PICTURE
    code, headers, body = spoken(server, said)
    assert (code, headers["content-type"]) == (200, "application/json")
    assert "ts_stream_next" not in headers
    assert json.loads(body)["caption"]
    form = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    form = b"".join(form % part for part in ((b"image", PICTURE), (b"stream", b"true"))) + b"--x--\r\n"
    said = b"POST %b HTTP/1.0\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"
    code, headers, body = spoken(server, said % (PATH, len(form)) + form)
    assert (code, headers["content-type"]) == (200, "text/event-stream")
    assert b"event: response" in body
    code, headers, body = spoken(server, b"GET %b HTTP/1.0\r\nAccept: text/html\r\n\r\n" % PATH)
    assert (code, headers["content-type"]) == (200, "text/html; charset=utf-8")
    code, headers, body = spoken(server, b"GET %b HTTP/1.0\r\n\r\n" % PATH)
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
    said = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n%b\r\n" % (PATH, header, LENGTH)
    code, _, body = spoken(server, said + PICTURE)
    assert code < 500, body
    assert workers(server) == before


@pytest.mark.parametrize("name", [b"\xff\xfe", b"", b'a"; name="image', b"x" * 5000, b"image\0"])
def test_malformed_field_name_harms_no_worker(server, name):
    """TorchServe itself answers a field without a name with a 500: it never comes to a worker."""
    before = workers(server)
    form = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--x--\r\n' % (name, PICTURE)
    said = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    code, _, body = spoken(server, said % PATH + b"Content-Length: %d\r\n\r\n" % len(form) + form)
    assert code < 500 or (name == b"" and b"empty name" in body), body
    assert workers(server) == before


def test_connections_closed_early_harm_no_later_request(server):
    """The rest of a body never comes; those after it are answered as ever."""
    for _ in range(20):
        address = urlsplit(server.inference)
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            connection.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (PATH, LENGTH) + PICTURE[:1000])
    assert requests.post(f"{server.inference}{PATH.decode()}", data=PICTURE, timeout=60).json()["caption"]

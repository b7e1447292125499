"""Clients that are slow, go away or change their minds: others are served all the while, and the worker lives."""

import socket
import time
from urllib.parse import urlsplit

import grpc
import pytest
import requests

from eval.grpc_stubs import inference_protos
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.fault_injection import answers, under_load, worker
from tests.helpers.paths import PHOTOS
from tests.helpers.servers import running_server

PHOTO = PHOTOS[0].read_bytes()
WORDY = {"stream": "true", "beam_size": "1", "min_length": "40", "max_length": "50"}


def written(**arguments) -> tuple[bytes, bytes]:
    """A request's head and body, as they go over the wire."""
    request = requests.Request("POST", "http://x/predictions/captioner", **arguments).prepare()
    headers = {"Host": "x", **request.headers}
    lines = [f"{request.method} {request.path_url} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode(), request.body


HEAD, BODY = written(data=PHOTO)
STREAM = b"".join(written(data=WORDY, files={"image": PHOTO}))


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """A server that heeds `stream` over gRPC, too."""
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    with running_server(tmp_path_factory.mktemp("patient"), bundle, grpc_streaming=True, threads=1) as server:
        yield server


@pytest.fixture
def unharmed(patient, request):
    """Holds a test to the worker that it began with: it lives, and answers.

    But TorchServe 0.12 sees whether a stream's gRPC call was cancelled, and then writes to it; if it was cancelled in
    between, TorchServe replaces the worker. Its log tells that from all else.
    """
    before = worker(patient).pid
    yield
    assert answers(patient)
    assert patient.ready()
    if worker(patient).pid != before:
        assert request.node.name == "test_a_grpc_call_is_cancelled[in a stream]"
        assert "IllegalStateException: call already closed" in (patient.logs / "ts_log.log").read_text()


def connect(server) -> socket.socket:
    address = urlsplit(server.inference)
    return socket.create_connection((address.hostname, address.port), timeout=60)


def test_bodies_that_come_byte_by_byte(patient, unharmed):
    with under_load(patient, "16 clients that send a byte now and then") as traffic:
        slow = [connect(patient) for _ in range(16)]
        for one in slow:
            one.sendall(HEAD)
        for byte in BODY[:100]:
            for one in slow:
                one.sendall(bytes([byte]))
            time.sleep(0.01)
        traffic.wait(requests=20)  # others have their answers meanwhile
        for one in slow:
            one.sendall(BODY[100:])
        for one in slow:
            assert one.recv(100).startswith(b"HTTP/1.1 200 ")
            one.close()


@pytest.mark.parametrize(
    ("sent", "heard"),
    [(HEAD[:30], 0), (HEAD + BODY[:1000], 0), (HEAD + BODY, 0), (STREAM, 0), (STREAM, 1)],
    ids=["in the head", "in the body", "before the answer", "before a stream", "in a stream"],
)
def test_a_client_goes_away(patient, unharmed, request, sent, heard):
    with under_load(patient, f"clients that go away {request.node.callspec.id}") as traffic:
        for _ in range(20):
            client = connect(patient)
            # Closed with a reset, as by a client that was killed with bytes unread.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(sent)
            if heard:
                assert client.recv(heard)
            client.close()
        traffic.wait(requests=20)


@pytest.mark.parametrize("when", ["at once", "at work", "in a stream"])
def test_a_grpc_call_is_cancelled(patient, unharmed, when):
    messages, services = inference_protos()
    stream = {name: text.encode() for name, text in WORDY.items()} if when == "in a stream" else {}
    asked = messages.PredictionsRequest(model_name="captioner", input={"image": PHOTO} | stream)
    with under_load(patient, f"gRPC calls cancelled {when}", protocol="grpc") as traffic:
        with grpc.insecure_channel(patient.grpc) as channel:
            stub = services.InferenceAPIsServiceStub(channel)
            for _ in range(20):
                if stream:
                    call = stub.StreamPredictions(asked, timeout=60)
                    assert b"token" in next(call).prediction
                else:
                    call = stub.Predictions.future(asked, timeout=60)
                    time.sleep(0.02 * (when == "at work"))
                call.cancel()
        traffic.wait(requests=20)

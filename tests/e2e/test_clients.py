"""Clients that are slow, disconnect or cancel: others are served meanwhile, and the worker survives."""

import socket
import time
from urllib.parse import urlsplit

import grpc
import pytest
import requests

from eval.grpc_stubs import inference_protos
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.fault_injection import RECOVERY_TIMEOUT, answers, under_load, worker
from tests.helpers.paths import PHOTOS
from tests.helpers.polling import eventually
from tests.helpers.servers import running_server

PHOTO = PHOTOS[0].read_bytes()
LONG_STREAM = {"stream": "true", "beam_size": "1", "min_length": "40", "max_length": "50"}
CANCELLED = 20  # calls or connections


def on_the_wire(**arguments) -> tuple[bytes, bytes]:
    """Return the head and the body of a request as they are sent."""
    request = requests.Request("POST", "http://x/predictions/captioner", **arguments).prepare()
    headers = {"Host": "x", **request.headers}
    lines = [f"{request.method} {request.path_url} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode(), request.body


HEAD, BODY = on_the_wire(data=PHOTO)
STREAM = b"".join(on_the_wire(data=LONG_STREAM, files={"image": PHOTO}))


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    """A server that streams over gRPC, too."""
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    with running_server(tmp_path_factory.mktemp("streaming"), bundle, grpc_streaming=True, threads=1) as server:
        yield server


@pytest.fixture
def same_worker(streaming):
    """The worker at the start of the test is the worker at its end, and answers."""
    before = worker(streaming).pid
    yield
    assert answers(streaming)
    assert streaming.ready()
    assert worker(streaming).pid == before


def connect(server) -> socket.socket:
    address = urlsplit(server.inference)
    return socket.create_connection((address.hostname, address.port), timeout=60)


@pytest.mark.usefixtures("same_worker")
def test_slow_uploads_leave_other_clients_served(streaming):
    with under_load(streaming, "16 clients that send a byte now and then") as traffic:
        slow = [connect(streaming) for _ in range(16)]
        for connection in slow:
            connection.sendall(HEAD)
        for byte in BODY[:100]:
            for connection in slow:
                connection.sendall(bytes([byte]))
            time.sleep(0.01)
        traffic.wait(requests=20)  # others are served meanwhile
        for connection in slow:
            connection.sendall(BODY[100:])
        for connection in slow:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
            connection.close()


@pytest.mark.usefixtures("same_worker")
@pytest.mark.parametrize(
    ("sent", "received"),
    [(HEAD[:30], 0), (HEAD + BODY[:1000], 0), (HEAD + BODY, 0), (STREAM, 0), (STREAM, 1)],
    ids=["in the head", "in the body", "before the answer", "before a stream", "in a stream"],
)
def test_disconnected_clients_leave_other_clients_served(streaming, request, sent, received):
    with under_load(streaming, f"clients that go away {request.node.callspec.id}") as traffic:
        for _ in range(CANCELLED):
            client = connect(streaming)
            # Closed with a reset, as by a client that was killed with bytes unread.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(sent)
            if received:
                assert client.recv(received)
            client.close()
        traffic.wait(requests=20)


@pytest.mark.usefixtures("same_worker")
@pytest.mark.parametrize("when", ["at once", "at work"])
def test_cancelled_grpc_calls_leave_other_clients_served(streaming, when):
    messages, services = inference_protos()
    request = messages.PredictionsRequest(model_name="captioner", input={"image": PHOTO})
    with (
        under_load(streaming, f"gRPC calls cancelled {when}", protocol="grpc") as traffic,
        grpc.insecure_channel(streaming.grpc) as channel,
    ):
        stub = services.InferenceAPIsServiceStub(channel)
        for _ in range(CANCELLED):
            call = stub.Predictions.future(request, timeout=60)
            time.sleep(0.02 * (when == "at work"))
            call.cancel()
        traffic.wait(requests=20)


def test_cancelled_grpc_streams_lose_no_request_of_other_clients(streaming):
    """TorchServe 0.12 may replace the worker: it checks whether the call was cancelled, and then writes to it.

    A call cancelled in between raises in TorchServe, which ends the worker. The log tells this from any other end.
    """
    messages, services = inference_protos()
    fields = {name: text.encode() for name, text in LONG_STREAM.items()} | {"image": PHOTO}
    request = messages.PredictionsRequest(model_name="captioner", input=fields)
    before, log, interrupted = worker(streaming).pid, streaming.logs / "ts_log.log", []
    with (
        under_load(streaming, "gRPC calls cancelled in a stream", protocol="grpc") as traffic,
        grpc.insecure_channel(streaming.grpc) as channel,
    ):
        stub = services.InferenceAPIsServiceStub(channel)

        def cancel_a_stream() -> bool:
            call = stub.StreamPredictions(request, timeout=60)
            try:
                assert b"token" in next(call).prediction
            except grpc.RpcError as error:  # the worker is being replaced
                interrupted.append(error)
                return False
            return call.cancel()

        for _ in range(CANCELLED):
            eventually(cancel_a_stream, RECOVERY_TIMEOUT, pause=0.2)
        traffic.wait(requests=20)
    # TorchServe hands requests over in order: with an answer to this one, no cancelled stream is left that could
    # still end the worker.
    eventually(lambda: answers(streaming), RECOVERY_TIMEOUT, pause=0.2)
    eventually(streaming.ready, RECOVERY_TIMEOUT)
    if worker(streaming).pid != before:
        assert "IllegalStateException: call already closed" in log.read_text()
    else:
        assert interrupted == []

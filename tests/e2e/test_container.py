"""The production settings as in the image: what clients get, what is refused, what can be written."""

import re
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import grpc
import psutil
import pytest
import requests
import yaml

from deploy.isolated_server import isolated_server
from eval.grpc_stubs import inference_protos
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.polling import eventually
from tests.helpers.sandbox import TOKEN, USER, Sandbox, bearer, make_certificate, post_image
from tests.helpers.servers import kill

PHOTO = PHOTOS[0].read_bytes()


# Requests of clients


@pytest.mark.parametrize(
    "address",
    ["/predictions/captioner", "/predictions/captioner/1.0", "/explanations/captioner", "/v1/models/captioner:predict"],
)
def test_request_with_a_token_is_answered(container, address):
    response = container.http.post(container.url + address, data=PHOTO, timeout=60)
    assert response.status_code == 200
    assert "caption" in response.text


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"Bearer {TOKEN}x", f"Bearer {TOKEN.upper()}", f"Basic {TOKEN}", TOKEN]
)
def test_request_without_a_valid_token_is_unauthorized(container, method, header):
    response = container.http.request(
        method, f"{container.url}/predictions/captioner", data=PHOTO, headers={"Authorization": header}, timeout=60
    )
    assert response.status_code == 401
    assert response.json()["type"] == "Unauthorized"
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_gateway_refuses_the_tokens_of_torchserve(container):
    for key in container.keys().values():
        assert post_image(container, headers=bearer(key)).status_code == 401


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/ping",
        "/models",
        "/models/captioner",
        "/metrics",
        "/token?type=inference",
        "/workflows",
        "/api-description",
        "/predictions/other",
        "/predictions/captioner/",
        "/predictions/captioner/../../models",
        "/predictions/captioner/%2e%2e/%2e%2e/models",
        "/predictions/captioner%0a",
        "/predictions/captioner%00",
        "//predictions/captioner/1.0/../../../models",
        "/models?url=http://127.0.0.1/evil.mar",
        "/org.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel",
        "/org.pytorch.serve.grpc.inference.InferenceAPIsService/StreamPredictions2",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_gateway_refuses_all_paths_but_those_of_captioning(container, method, address):
    request = requests.Request(method, container.url, headers=bearer(TOKEN)).prepare()
    request.url = container.url + address  # as it stands: requests would tidy it up
    response = container.http.send(request, timeout=60)
    assert response.status_code in (400, 404), response.text
    assert response.headers["Server"] == "nginx"


def test_body_over_the_limit_is_too_large(container):
    response = container.http.post(f"{container.url}/predictions/captioner", data=b"x" * 41943041, timeout=60)
    assert response.status_code == 413
    assert response.json() == {"code": 413, "type": "TooLarge", "message": "A request may have 41943040 bytes."}


def test_large_bodies_at_once_leave_room_for_small_images(container):
    """Bodies that would fill the memory of the JVM are refused; the JVM survives, and small images are captioned."""
    statuses: list[int] = []
    large = b"\xff\xd8" + bytes(39_000_000)

    def ask() -> None:
        response = container.http.post(f"{container.url}/predictions/captioner", data=large, timeout=120)
        statuses.append(response.status_code)
        assert response.status_code != 503 or response.headers["Retry-After"] == "1"

    jvm = container.processes("ModelServer")
    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert post_image(container).status_code == 200
    assert len(statuses) == len(threads)
    assert set(statuses) <= {413, 503}
    assert 413 in statuses
    assert container.processes("ModelServer") == jvm


def test_response_headers_repeat_nothing_of_the_request(container):
    names = [
        "X-Request-Id",
        "traceparent",
        "Origin",
        "Accept",
        "Referer",
        "User-Agent",
        "X-Amzn-SageMaker-Custom-Attributes",
    ]
    response = post_image(container, headers=dict.fromkeys(names, "mark") | {"Content-Type": "mark/mark"})
    refusal = container.http.get(container.url + "/mark", headers=dict.fromkeys(names, "mark"), timeout=60)
    assert response.status_code == 200
    assert refusal.status_code == 404
    for one in (response, refusal):
        assert "mark" not in str(one.headers)
        assert one.headers["Strict-Transport-Security"]


def test_internal_headers_of_a_client_are_dropped(container):
    """TorchServe sets the headers `describe` and `explain` itself; those of a client are dropped."""
    response = post_image(container, headers={"describe": "True", "explain": "True"})
    assert set(response.json()) == {"caption", "captions", "model", "request_id"}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_older_than_1_2_is_refused(container):
    host, port = container.address.split(":")
    context = ssl.create_default_context(cafile=container.tls / "tls.crt")
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        assert tls.version() == "TLSv1.3"
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port))) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=host)
    assert requests.get(f"http://{container.address}/", timeout=60).status_code == 400


def test_grpc_needs_a_token(container):
    messages, services = inference_protos()
    asked = messages.PredictionsRequest(model_name="captioner", input={"image": PHOTO})
    certificate = (container.tls / "tls.crt").read_bytes()
    with grpc.secure_channel(container.address, grpc.ssl_channel_credentials(certificate)) as channel:
        stub = services.InferenceAPIsServiceStub(channel)
        response = stub.Predictions(asked, metadata=[("authorization", f"Bearer {TOKEN}")], timeout=60)
        assert b'"caption"' in response.prediction
        for metadata in ([], [("authorization", "Bearer wrong")]):
            with pytest.raises(grpc.RpcError) as refused:
                stub.Predictions(asked, metadata=metadata, timeout=60)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_internal_address_serves_probes_and_metrics_alone(container):
    assert container.get_internal("/ready") == container.get_internal("/live") == 200
    for path in ("/models", "/predictions/captioner", "/nginx.conf", "/../run/key_file.json", "/ready/../nginx.conf"):
        assert container.get_internal(path) == 404
    post_image(container)
    names = {"captioner_images_total{", "ts_queue_latency_microseconds{", "ts_inference_requests_total{"}
    eventually(
        lambda: all(name in container.http.get(container.internal + "/metrics", timeout=60).text for name in names)
    )


def test_changed_tokens_and_certificate_apply_without_a_restart(container):
    new = "another-token-of-thirty-two-letters-or-more"
    try:
        container.set_tokens("too-short")
        eventually(lambda: "Line 2 of /etc/captioner/tokens/tokens is no token" in container.stderr())
        assert post_image(container).status_code == 200  # as before
        make_certificate(container.tls)
        container.set_tokens(new, TOKEN)
        eventually(
            lambda: new_certificate_serves(container) and post_image(container, headers=bearer(new)).status_code == 200
        )
        assert post_image(container).status_code == 200
        container.set_tokens(TOKEN)
        eventually(lambda: post_image(container, headers=bearer(new)).status_code == 401)
        assert post_image(container).status_code == 200
    finally:
        container.set_tokens(TOKEN)


def new_certificate_serves(container: Sandbox) -> bool:
    try:
        return requests.get(container.url, verify=container.http.verify, timeout=60).status_code == 401
    except requests.exceptions.SSLError:
        return False


def test_documented_command_gets_a_caption(container):
    """The command of docs/production.md, with the address of the sandbox."""
    [command] = re.findall(r"^curl .+$", (ROOT / "docs" / "production.md").read_text(), re.MULTILINE)
    command = command.replace("tls/tls.crt", str(container.tls / "tls.crt")).replace(
        "127.0.0.1:8443", container.address
    )
    command = f"CAPTIONER_TOKEN='{TOKEN}'; {command}"
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert '"caption"' in done.stdout, done.stderr


# Attacks from inside


@pytest.mark.parametrize(
    ("method", "path", "status", "status_with_token"),
    [
        ("POST", "/models?url=captioner.mar", 400, 405),
        ("POST", "/models?url=http://169.254.169.254/latest/meta-data", 400, 405),
        ("POST", "/models?url=file:///etc/passwd", 400, 405),
        ("POST", "/models?url=../../etc/passwd", 400, 405),
        ("POST", "/workflows?url=http://169.254.169.254/latest/meta-data", 400, 404),
        ("DELETE", "/models/captioner", 400, 405),
        ("GET", "/models", 400, 200),
    ],
)
def test_management_api_registers_no_model(container, method, path, status, status_with_token):
    keys, url = container.keys(), container.server.management + path
    assert requests.request(method, url, timeout=60).status_code == status
    assert requests.request(method, url, headers=bearer(keys["inference"]), timeout=60).status_code == status
    assert (
        requests.request(method, url, headers=bearer(keys["management"]), timeout=60).status_code == status_with_token
    )


def test_listeners_but_the_gateway_are_on_loopback(container):
    listening = {
        f"{connection.laddr.ip}:{connection.laddr.port}"
        for process in [container.init_process(), *container.init_process().children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    gateway = {container.address, container.internal.removeprefix("http://")}
    assert gateway < listening
    assert all(address.startswith(("127.0.0.1:", "::ffff:127.0.0.1:")) for address in listening - gateway), listening


def test_processes_have_no_root_no_capabilities_and_write_to_tmp_alone(container):
    for process in [container.init_process(), *container.init_process().children(recursive=True)]:
        assert set(process.uids()) == {USER}
        status = yaml.safe_load(Path(f"/proc/{process.pid}/status").read_text().replace("\t", " "))
        assert {status[f"Cap{kind}"] for kind in ("Eff", "Prm", "Bnd", "Amb")} == {0}
        assert status["NoNewPrivs"] == 1
    mounts = [line.split() for line in Path(f"/proc/{container.init_process().pid}/mounts").read_text().splitlines()]
    writable = {target for _, target, kind, options, *_ in mounts if "rw" in options.split(",")} - {"/proc"}
    assert {target for target in writable if not target.startswith("/dev")} == {"/tmp"}  # noqa: S108
    for path in ("run/key_file.json", "gateway/nginx.conf"):
        assert container.file(f"/tmp/{path}").stat().st_mode & 0o077 == 0  # noqa: S108


def test_registration_that_is_on_fetches_no_url(tmp_path, store):
    """`allowed_urls` is empty: no URL matches, and any other name is a file of the model store."""
    template = ROOT / "deploy" / "container" / "config.properties"
    server = isolated_server(tmp_path, store, tmp_path, template, enable_model_api="true")
    listener = socket.create_server(("127.0.0.1", 0))
    outside = f"127.0.0.1:{listener.getsockname()[1]}"
    targets = [
        f"http://{outside}/evil.mar",
        f"HTTP://{outside}/evil.mar",
        f"ftp://{outside}/evil.mar",
        "s3://evil/evil.mar",
    ]
    targets += ["file:///etc/passwd", "file:/etc/passwd", "/etc/passwd", "../../etc/passwd", "..%2f..%2fetc/passwd"]
    try:
        server.start()
        for kind in ("models", "workflows"):
            for target in targets:
                url = f"{server.management}/{kind}?url={target}"
                assert requests.post(url, headers=server.authorization("management"), timeout=60).status_code == 404, (
                    url
                )
    finally:
        kill(server)
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert [path.name for path in store.iterdir()] == ["captioner.mar"]

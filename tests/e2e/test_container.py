"""The production settings for real, as in the image: what is refused, what is written, how it starts and ends."""

import re
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import psutil
import pytest
import requests
import yaml

from deploy.haproxy.proxy import Proxy
from deploy.testing import isolated_server
from eval.client import Client, EndpointError
from eval.grpc_stubs import inference_protos
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.commands import require_program
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.polling import eventually
from tests.helpers.sandbox import TOKEN, USER, Sandbox, make_certificate, sandbox
from tests.helpers.servers import packed

PHOTO = PHOTOS[0].read_bytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A model store with an archive of a tiny bundle."""
    folder = tmp_path_factory.mktemp("store")
    packed(write_tiny_bundle(folder / "bundle"), folder / "model_store")
    return folder / "model_store"


@pytest.fixture(scope="module")
def container(tmp_path_factory, store):
    with sandbox(tmp_path_factory.mktemp("container"), store) as container:
        yield container


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def caption(container: Sandbox, **arguments) -> requests.Response:
    return container.http.post(f"{container.url}/predictions/captioner", data=PHOTO, timeout=60, **arguments)


# What clients meet


@pytest.mark.parametrize(
    "address",
    ["/predictions/captioner", "/predictions/captioner/1.0", "/explanations/captioner", "/v1/models/captioner:predict"],
)
def test_with_a_token_a_client_is_answered(container, address):
    answer = container.http.post(container.url + address, data=PHOTO, timeout=60)
    assert answer.status_code == 200
    assert "caption" in answer.text


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"Bearer {TOKEN}x", f"Bearer {TOKEN.upper()}", f"Basic {TOKEN}", TOKEN]
)
def test_without_a_token_nobody_is(container, method, header):
    answer = container.http.request(
        method, f"{container.url}/predictions/captioner", data=PHOTO, headers={"Authorization": header}, timeout=60
    )
    assert answer.status_code == 401
    assert answer.json()["type"] == "Unauthorized"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_torchserves_own_token_is_nothing_to_the_gateway(container):
    for key in container.keys().values():
        assert caption(container, headers=bearer(key)).status_code == 401


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
def test_the_gateway_passes_on_captioning_and_nothing_else(container, method, address):
    request = requests.Request(method, container.url, headers=bearer(TOKEN)).prepare()
    request.url = container.url + address  # as it stands: requests would tidy it up
    answer = container.http.send(request, timeout=60)
    assert answer.status_code in (400, 404), answer.text
    assert answer.headers["Server"] == "nginx"


def test_a_body_beyond_the_limit(container):
    answer = container.http.post(f"{container.url}/predictions/captioner", data=b"x" * 41943041, timeout=60)
    assert answer.status_code == 413
    assert answer.json() == {"code": 413, "type": "TooLarge", "message": "A request may have 41943040 bytes."}


def test_more_large_bodies_than_there_is_room_for(container):
    """What would fill the JVM's memory is refused; the JVM lives, and small pictures have their room all the while."""
    statuses: list[int] = []
    large = b"\xff\xd8" + bytes(39_000_000)

    def ask() -> None:
        answer = container.http.post(f"{container.url}/predictions/captioner", data=large, timeout=120)
        statuses.append(answer.status_code)
        assert answer.status_code != 503 or answer.headers["Retry-After"] == "1"

    jvm = container.processes("ModelServer")
    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert caption(container).status_code == 200
    assert len(statuses) == len(threads)
    assert set(statuses) <= {413, 503}
    assert 413 in statuses
    assert container.processes("ModelServer") == jvm


def test_an_answer_holds_nothing_of_the_clients_in_its_headers(container):
    names = [
        "X-Request-Id",
        "traceparent",
        "Origin",
        "Accept",
        "Referer",
        "User-Agent",
        "X-Amzn-SageMaker-Custom-Attributes",
    ]
    answer = caption(container, headers=dict.fromkeys(names, "mark") | {"Content-Type": "mark/mark"})
    refusal = container.http.get(container.url + "/mark", headers=dict.fromkeys(names, "mark"), timeout=60)
    assert answer.status_code == 200
    assert refusal.status_code == 404
    for one in (answer, refusal):
        assert "mark" not in str(one.headers)
        assert one.headers["Strict-Transport-Security"]


def test_a_client_cannot_pass_for_torchserves_own_calls(container):
    """`describe` and `explain` are headers that TorchServe itself sets; of a client's they are dropped."""
    answer = caption(container, headers={"describe": "True", "explain": "True"})
    assert set(answer.json()) == {"caption", "captions", "model", "request_id"}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_and_nothing_older_than_1_2(container):
    host, port = container.address.split(":")
    context = ssl.create_default_context(cafile=container.tls / "tls.crt")
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        assert tls.version() == "TLSv1.3"
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port))) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=host)
    assert requests.get(f"http://{container.address}/", timeout=60).status_code == 400


def test_grpc(container):
    messages, services = inference_protos()
    asked = messages.PredictionsRequest(model_name="captioner", input={"image": PHOTO})
    certificate = (container.tls / "tls.crt").read_bytes()
    with grpc.secure_channel(container.address, grpc.ssl_channel_credentials(certificate)) as channel:
        stub = services.InferenceAPIsServiceStub(channel)
        answer = stub.Predictions(asked, metadata=[("authorization", f"Bearer {TOKEN}")], timeout=60)
        assert b'"caption"' in answer.prediction
        for metadata in ([], [("authorization", "Bearer wrong")]):
            with pytest.raises(grpc.RpcError) as refused:
                stub.Predictions(asked, metadata=metadata, timeout=60)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_inner_address_is_for_probes_and_prometheus(container):
    assert container.get_inside("/ready") == container.get_inside("/live") == 200
    for path in ("/models", "/predictions/captioner", "/nginx.conf", "/../run/key_file.json", "/ready/../nginx.conf"):
        assert container.get_inside(path) == 404
    caption(container)
    names = {"captioner_images_total{", "ts_queue_latency_microseconds{", "ts_inference_requests_total{"}
    eventually(
        lambda: all(name in container.http.get(container.inside + "/metrics", timeout=60).text for name in names)
    )


def test_tokens_and_certificate_change_without_a_restart(container):
    new = "another-token-of-thirty-two-letters-or-more"
    try:
        container.set_tokens("too-short")
        eventually(lambda: "Line 2 of /etc/captioner/tokens/tokens is no token" in container.stderr())
        assert caption(container).status_code == 200  # as before
        make_certificate(container.tls)
        container.set_tokens(new, TOKEN)
        eventually(
            lambda: new_certificate_serves(container) and caption(container, headers=bearer(new)).status_code == 200
        )
        assert caption(container).status_code == 200
        container.set_tokens(TOKEN)
        eventually(lambda: caption(container, headers=bearer(new)).status_code == 401)
        assert caption(container).status_code == 200
    finally:
        container.set_tokens(TOKEN)


def new_certificate_serves(container: Sandbox) -> bool:
    try:
        return requests.get(container.url, verify=container.http.verify, timeout=60).status_code == 401
    except requests.exceptions.SSLError:
        return False


def test_the_pages_command(container):
    """docs/production.md's, with the sandbox's address."""
    [command] = re.findall(r"^curl .+$", (ROOT / "docs" / "production.md").read_text(), re.MULTILINE)
    command = command.replace("tls/tls.crt", str(container.tls / "tls.crt")).replace(
        "127.0.0.1:8443", container.address
    )
    command = f"CAPTIONER_TOKEN='{TOKEN}'; {command}"
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert '"caption"' in done.stdout, done.stderr


# What somebody meets who is inside already


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
def test_management_registers_nothing(container, method, path, status, status_with_token):
    keys, url = container.keys(), container.server.management + path
    assert requests.request(method, url, timeout=60).status_code == status
    assert requests.request(method, url, headers=bearer(keys["inference"]), timeout=60).status_code == status
    assert (
        requests.request(method, url, headers=bearer(keys["management"]), timeout=60).status_code == status_with_token
    )


def test_all_but_the_gateway_is_on_loopback(container):
    listening = {
        f"{connection.laddr.ip}:{connection.laddr.port}"
        for process in [container.init_process(), *container.init_process().children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    gateway = {container.address, container.inside.removeprefix("http://")}
    assert gateway < listening
    assert all(address.startswith(("127.0.0.1:", "::ffff:127.0.0.1:")) for address in listening - gateway), listening


def test_no_root_no_rights_and_one_folder_to_write(container):
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


def test_nothing_is_fetched_even_where_registration_is_on(tmp_path, store):
    """`allowed_urls` is empty: no URL matches, and what is none is a file of the model store."""
    template = ROOT / "deploy" / "container" / "config.properties"
    server = isolated_server(tmp_path, store, tmp_path, template, enable_model_api="true")
    listener = socket.create_server(("127.0.0.1", 0))
    outside = f"127.0.0.1:{listener.getsockname()[1]}"
    wishes = [
        f"http://{outside}/evil.mar",
        f"HTTP://{outside}/evil.mar",
        f"ftp://{outside}/evil.mar",
        "s3://evil/evil.mar",
    ]
    wishes += ["file:///etc/passwd", "file:/etc/passwd", "/etc/passwd", "../../etc/passwd", "..%2f..%2fetc/passwd"]
    try:
        server.start()
        for kind in ("models", "workflows"):
            for wish in wishes:
                url = f"{server.management}/{kind}?url={wish}"
                assert requests.post(url, headers=server.authorization("management"), timeout=60).status_code == 404, (
                    url
                )
    finally:
        server.stop()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert [path.name for path in store.iterdir()] == ["captioner.mar"]


# Starting and ending


def test_a_worker_that_dies_is_seen_and_replaced(container):
    [worker] = container.processes("model_service_worker.py")
    worker.kill()
    eventually(lambda: container.get_inside("/ready") == 503)
    eventually(container.ready)
    assert caption(container).status_code == 200


def test_behind_haproxy(container, tmp_path):
    """As docs/scaling.md has it: over TLS, ready by what the gateway says of itself, tokens the container's."""
    require_program("haproxy", "haproxy")
    addresses = {"CAPTIONER_ONE_REST": container.address, "CAPTIONER_ONE_GRPC": container.address}
    addresses |= {"CAPTIONER_ONE_MANAGEMENT": container.inside.rpartition(":")[2], "CAPTIONER_READY": "/ready"}
    proxy = Proxy({}, tmp_path / "haproxy.log", CAPTIONER_CA=str(container.tls / "tls.crt"), **addresses)
    try:
        proxy.start()
        eventually(lambda: proxy.up("one"))
        captions = []
        for endpoint, protocol in ((proxy.rest, "rest"), (proxy.grpc, "grpc")):
            with Client(endpoint, protocol=protocol, token=TOKEN) as client:
                captions.append(client.caption(PHOTO)["caption"])
            with Client(endpoint, protocol=protocol, retries=0) as client, pytest.raises(EndpointError) as refused:
                client.caption(PHOTO)
            assert refused.value.type in ("Unauthorized", "UNAUTHENTICATED")
        assert captions == [caption(container).json()["caption"]] * 2
        [worker] = container.processes("model_service_worker.py")
        worker.kill()
        eventually(lambda: not proxy.up("one"))
        eventually(lambda: proxy.up("one"), 120)
    finally:
        proxy.stop()


def test_a_slow_caller_keeps_nobody_out(container):
    """One token with more requests than it has places for, none of which comes to its end: another is answered."""
    other = "another-token-of-32-letters-or-more"
    container.set_tokens(TOKEN, other)
    eventually(lambda: caption(container, headers=bearer(other)).status_code == 200)
    host, port = container.address.split(":")
    context = ssl.create_default_context(cafile=container.tls / "tls.crt")
    head = f"POST /predictions/captioner HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    slow = []
    try:
        for _ in range(80):
            slow.append(context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host))
            slow[-1].sendall(f"{head}Content-Length: {len(PHOTO)}\r\n\r\n".encode() + PHOTO[:1000])
        eventually(lambda: caption(container).status_code == 503)
        assert caption(container, headers=bearer(other)).status_code == 200
    finally:
        for connection in slow:
            connection.close()
        container.set_tokens(TOKEN)
    eventually(lambda: caption(container).status_code == 200)


def test_sigterm_under_load_loses_nothing(tmp_path, store):
    """Clients go on until `/ready` sends them elsewhere; one of them is still sending when the door closes."""
    with sandbox(tmp_path, store) as container:
        statuses: list[int] = []
        load = [threading.Thread(target=ask_while_ready, args=(container, statuses)) for _ in range(4)]
        for thread in load:
            thread.start()
        eventually(lambda: len(statuses) > 20)
        host, port = container.address.split(":")
        context = ssl.create_default_context(cafile=container.tls / "tls.crt")
        with socket.create_connection((host, int(port))) as plain:
            slow = context.wrap_socket(plain, server_hostname=host)
            head = f"POST /predictions/captioner HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            slow.sendall(f"{head}Content-Length: {len(PHOTO)}\r\n\r\n".encode() + PHOTO[:1000])
            container.terminate()
            for thread in load:
                thread.join()
            eventually(lambda: container.get_inside("/live") == 0)  # nobody else is let in
            slow.sendall(PHOTO[1000:])
            assert slow.recv(100).startswith(b"HTTP/1.1 200 ")
        assert container.process.wait(60) == 0
    assert set(statuses) == {200}
    assert container.stderr().endswith("Stopped; every request was answered.\n")


def ask_while_ready(container: Sandbox, statuses: list[int]) -> None:
    while container.get_inside("/ready") == 200:
        statuses.append(caption(container).status_code)


def test_behind_anothers_tls_and_a_dead_jvm_ends_it(tmp_path, store):
    """As KServe runs it, with plain HTTP and tokens; and what happens when TorchServe is killed."""
    with sandbox(tmp_path, store, "--tls", "off") as container:
        container.url = container.url.replace("https", "http")
        assert caption(container).status_code == 200
        assert caption(container, headers=bearer("wrong")).status_code == 401
        [jvm] = container.processes("ModelServer")
        jvm.kill()
        assert container.process.wait(60) == 1
        assert container.stderr().splitlines()[-1] == "TorchServe has died."


def test_sigterm_while_it_starts(tmp_path, store):
    container = Sandbox(tmp_path, store)
    container.start()
    eventually(lambda: container.started() and container.processes("ModelServer"))
    container.terminate()
    assert container.process.wait(60) == 0
    assert container.stderr().endswith("Stopped; every request was answered.\n")


def test_a_certificate_without_its_key(tmp_path, store):
    container = Sandbox(tmp_path, store)
    (container.tls / "tls.key").unlink()
    container.start()
    assert container.process.wait(60) == 1
    assert container.stderr() == (
        "/etc/captioner/tls/tls.key can't be read (No such file or directory): "
        "it has to hold the certificate or its key.\n"
    )


def test_root_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "deploy.container.entrypoint"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "This serves as any user but root: it needs none of root's rights.\n"

"""The production settings as in the image: workers that die, slow clients, starting and stopping."""

import socket
import ssl
import subprocess
import sys
import threading

import pytest

from deploy.haproxy.proxy import Proxy
from eval.client import Client, EndpointError
from tests.helpers.commands import require_program
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.polling import eventually
from tests.helpers.sandbox import TOKEN, Sandbox, bearer, post_image, sandbox

pytestmark = pytest.mark.slow
PHOTO = PHOTOS[0].read_bytes()


def test_killed_worker_is_not_ready_and_is_replaced(container):
    [worker] = container.processes("model_service_worker.py")
    worker.kill()
    eventually(lambda: container.get_internal("/ready") == 503)
    eventually(container.ready)
    assert post_image(container).status_code == 200


def test_haproxy_in_front_follows_readiness(container, tmp_path):
    """As in docs/scaling.md: over TLS, readiness from the gateway, tokens checked by the container."""
    require_program("haproxy", "haproxy")
    addresses = {"CAPTIONER_ONE_REST": container.address, "CAPTIONER_ONE_GRPC": container.address}
    addresses |= {"CAPTIONER_ONE_MANAGEMENT": container.internal.rpartition(":")[2], "CAPTIONER_READY": "/ready"}
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
        assert captions == [post_image(container).json()["caption"]] * 2
        [worker] = container.processes("model_service_worker.py")
        worker.kill()
        eventually(lambda: not proxy.up("one"))
        eventually(lambda: proxy.up("one"), 120)
    finally:
        proxy.stop()


def test_slow_client_takes_no_places_of_another_token(container):
    """A token uses all its places with uploads that never end; another token is answered."""
    other = "another-token-of-32-letters-or-more"
    container.set_tokens(TOKEN, other)
    eventually(lambda: post_image(container, headers=bearer(other)).status_code == 200)
    host, port = container.address.split(":")
    context = ssl.create_default_context(cafile=container.tls / "tls.crt")
    head = f"POST /predictions/captioner HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    slow = []
    try:
        for _ in range(80):
            slow.append(context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host))
            slow[-1].sendall(f"{head}Content-Length: {len(PHOTO)}\r\n\r\n".encode() + PHOTO[:1000])
        eventually(lambda: post_image(container).status_code == 503)
        assert post_image(container, headers=bearer(other)).status_code == 200
    finally:
        for connection in slow:
            connection.close()
        container.set_tokens(TOKEN)
    eventually(lambda: post_image(container).status_code == 200)


def test_sigterm_under_load_loses_no_request(tmp_path, store):
    """Clients go on until `/ready` fails; one is still uploading when the gateway stops accepting."""
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
            eventually(lambda: container.get_internal("/live") == 0)  # no new connections
            slow.sendall(PHOTO[1000:])
            assert slow.recv(100).startswith(b"HTTP/1.1 200 ")
        assert container.process.wait(60) == 0
    assert set(statuses) == {200}
    assert container.stderr().endswith("Stopped; every request was answered.\n")


def ask_while_ready(container: Sandbox, statuses: list[int]) -> None:
    while container.get_internal("/ready") == 200:
        statuses.append(post_image(container).status_code)


def test_killed_jvm_ends_the_container_without_tls(tmp_path, store):
    """As KServe runs it, with plain HTTP and tokens."""
    with sandbox(tmp_path, store, "--tls", "off") as container:
        container.url = container.url.replace("https", "http")
        assert post_image(container).status_code == 200
        assert post_image(container, headers=bearer("wrong")).status_code == 401
        [jvm] = container.processes("ModelServer")
        jvm.kill()
        assert container.process.wait(60) == 1
        assert container.stderr().splitlines()[-1] == "TorchServe has died."


def test_sigterm_during_the_start_ends_with_0(tmp_path, store):
    container = Sandbox(tmp_path, store)
    container.start()
    eventually(lambda: container.started() and container.processes("ModelServer"))
    container.terminate()
    assert container.process.wait(60) == 0
    assert container.stderr().endswith("Stopped; every request was answered.\n")


def test_certificate_without_its_key_is_an_error(tmp_path, store):
    container = Sandbox(tmp_path, store)
    (container.tls / "tls.key").unlink()
    container.start()
    assert container.process.wait(60) == 1
    assert container.stderr() == (
        "/etc/captioner/tls/tls.key cannot be read (No such file or directory): "
        "it has to hold the certificate or its key.\n"
    )


def test_entrypoint_as_root_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "deploy.container.entrypoint"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "This does not serve as root, because it needs no root rights: start it as another user.\n"

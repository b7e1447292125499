"""HAProxy with haproxy.cfg in front of a real TorchServe, over REST and gRPC."""

import re
import subprocess
from io import BytesIO

import pytest
import requests
from PIL import Image

from deploy.haproxy.proxy import BACKENDS, Proxy
from deploy.isolated_server import free_ports
from deploy.torchserve import ServerError
from eval.client import Client, EndpointError
from tests.helpers.commands import require_program
from tests.helpers.documents import code_blocks
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.polling import eventually

PHOTO = PHOTOS[0].read_bytes()


@pytest.fixture(scope="module")
def proxy(server, tmp_path_factory):
    """HAProxy in front of one server; the other one is down."""
    require_program("haproxy", "haproxy")
    proxy = Proxy({"one": server}, tmp_path_factory.mktemp("proxy") / "haproxy.log")
    try:
        proxy.start()
        eventually(lambda: proxy.ready("one") and not proxy.up("two"))
        yield proxy
    finally:
        proxy.stop()


def test_proxy_gives_the_same_captions_over_both_protocols(server, proxy):
    responses = []
    for endpoint, protocol in ((server.inference, "rest"), (proxy.rest, "rest"), (proxy.grpc, "grpc")):
        with Client(endpoint, protocol=protocol, retries=0) as client:
            responses.append(client.caption(PHOTO)["captions"][0]["tokens"])
    assert responses[0] == responses[1] == responses[2]


def test_image_larger_than_the_proxy_buffer_gets_its_caption(proxy):
    stream = BytesIO()
    Image.effect_noise((1500, 1500), 80).convert("RGB").save(stream, "BMP")
    assert len(stream.getvalue()) > 6 * 2**20
    captions = []
    for endpoint, protocol in ((proxy.rest, "rest"), (proxy.grpc, "grpc")):
        with Client(endpoint, protocol=protocol, retries=0) as client:
            captions.append(client.caption(stream.getvalue())["caption"])
    assert captions[0] == captions[1]


def test_stream_passes_through_the_proxy(proxy):
    with Client(proxy.rest) as client:
        *tokens, whole = client.stream(PHOTO)
    assert [part["token"] for part in tokens] == whole["captions"][0]["tokens"]


def test_refused_request_is_not_retried(proxy):
    before = proxy.statistics("BACKEND")["wretr"]
    response = requests.post(f"{proxy.rest}/predictions/captioner", data=b"no image", timeout=60)
    assert (response.status_code, response.json()["type"]) == (422, "InvalidImage")
    assert proxy.statistics("BACKEND")["wretr"] == before


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200),
        ("/explanations/captioner/1.0", 200),
        ("/predictions/captioner/3.0", 404),
        ("/predictions/other", 404),
        ("/models/captioner", 404),
        ("/", 404),
    ],
)
def test_proxy_passes_paths_of_captioning_alone(proxy, path, status):
    assert requests.post(f"{proxy.rest}{path}", data=PHOTO, timeout=60).status_code == status


def test_body_over_the_limit_does_not_reach_the_server(proxy):
    before = proxy.statistics("one")["stot"]
    response = requests.post(f"{proxy.rest}/predictions/captioner", data=bytes(41_943_041), timeout=60)
    assert (response.status_code, response.json()["type"]) == (413, "TooLarge")
    assert proxy.statistics("one")["stot"] == before


def test_proxy_without_a_ready_server_is_busy(proxy):
    proxy.drain("one")
    try:
        health = requests.get(f"{proxy.rest}/health", timeout=60)
        response = requests.post(f"{proxy.rest}/predictions/captioner", data=PHOTO, timeout=60)
        with Client(proxy.grpc, protocol="grpc", retries=0) as client, pytest.raises(EndpointError) as refused:
            client.caption(PHOTO)
    finally:
        proxy.enable("one")
    assert health.status_code == 503
    assert (response.status_code, response.json()["type"]) == (503, "Busy")
    assert refused.value.type == "Unreachable"


def test_proxy_with_tokens_refuses_others(server, tmp_path):
    require_program("haproxy", "haproxy")
    tokens = tmp_path / "tokens"
    tokens.write_text("first\nsecond\n")
    proxy = Proxy({"one": server}, tmp_path / "haproxy.log", CAPTIONER_TOKENS=str(tokens))
    try:
        proxy.start()
        for endpoint, protocol in ((proxy.rest, "rest"), (proxy.grpc, "grpc")):
            with Client(endpoint, protocol=protocol, token="second") as client:  # noqa: S106
                assert client.caption(PHOTO)["caption"]
            for token in (None, "third", "secon"):
                with Client(endpoint, protocol=protocol, token=token, retries=0) as client:
                    with pytest.raises(EndpointError) as refused:
                        client.caption(PHOTO)
                    assert refused.value.type in ("Unauthorized", "UNAUTHENTICATED")
    finally:
        proxy.stop()


def test_proxy_with_a_certificate_serves_tls(server, tmp_path):
    """A certificate in CAPTIONER_REST, as in the comment of the file."""
    openssl = require_program("openssl", "openssl")
    require_program("haproxy", "haproxy")
    pem = tmp_path / "captioner.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pem, "-out", tmp_path / "certificate"]
    subprocess.run(command, check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + (tmp_path / "certificate").read_bytes())
    [port] = free_ports(1)
    bind = f"127.0.0.1:{port} ssl crt {pem} alpn h2,http/1.1"
    proxy = Proxy({"one": server}, tmp_path / "haproxy.log", CAPTIONER_REST=bind)
    try:
        proxy.start()
        url = f"https://127.0.0.1:{port}/predictions/captioner"
        response = requests.post(url, data=PHOTO, verify=str(tmp_path / "certificate"), timeout=60)
        assert response.json()["caption"]
    finally:
        proxy.stop()


def test_documented_commands_are_accepted_by_haproxy(proxy):
    pages = [code for page in ("docs/versions.md", "docs/scaling.md") for _, code in code_blocks(page)]
    orders = re.findall(r'^echo "(.+)" \| socat', "".join(pages), re.M)
    assert len(orders) == 7
    assert set(re.findall(r"server (\w+)/", "".join(orders))) == set(BACKENDS)
    for order in orders:
        response = proxy.run_command(order)
        assert order.startswith("set ") or response.startswith("# pxname,svname")
    assert proxy.statistics("two")["weight"] == "10"


def test_unknown_server_in_a_command_is_an_error(proxy):
    with pytest.raises(ServerError, match="HAProxy rejected 'set server captioner/three weight 1': No such server"):
        proxy.run_command("set server captioner/three weight 1")


def test_configuration_without_variables_is_valid(tmp_path):
    """No variable is set, as in the first line of the file."""
    program = require_program("haproxy", "haproxy")
    done = subprocess.run([program, "-c", "-f", "deploy/haproxy/haproxy.cfg"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

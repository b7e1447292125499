"""Two versions of the model in one TorchServe, with the commands of docs/versions.md."""

import json
import subprocess

import pytest
import requests

from deploy.isolated_server import isolated_server
from eval.client import Client, EndpointError
from eval.grpc_stubs import inference_protos
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.documents import code_blocks, with_server_urls
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.servers import kill, packed

PHOTO = PHOTOS[0].read_bytes()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A server of versions 1.0 and 2.0, whose captions differ."""
    directory = tmp_path_factory.mktemp("both")
    store = directory / "model_store"
    packed(write_tiny_bundle(directory / "old", seed=1), store)
    packed(write_tiny_bundle(directory / "new", seed=2), store / "captioner-2.0.mar", "2.0")
    server = isolated_server(directory, store, load_models="captioner.mar,captioner-2.0.mar")
    try:
        server.start()
        yield server
    finally:
        kill(server)


@pytest.fixture(scope="module")
def captions(both) -> dict[str, str]:
    """The caption of each version for the photo."""
    found = {}
    for version in ("1.0", "2.0"):
        with Client(f"{both.inference}/predictions/captioner/{version}") as client:
            response = client.caption(PHOTO)
        assert response["model"]["version"] == version
        found[version] = response["caption"]
    assert found["1.0"] != found["2.0"]
    return found


def test_server_of_two_versions_has_a_ready_worker_of_each(both):
    described = requests.get(f"{both.management}/models/captioner/all", timeout=60).json()
    assert {model["modelVersion"]: [one["status"] for one in model["workers"]] for model in described} == {
        "1.0": ["READY"],
        "2.0": ["READY"],
    }


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_version_in_a_request_answers_over_every_protocol(both, captions, version):
    explained = requests.post(f"{both.inference}/explanations/captioner/{version}", data=PHOTO, timeout=60).json()
    messages, services = inference_protos()
    import grpc

    with grpc.insecure_channel(both.grpc) as channel:
        stub = services.InferenceAPIsServiceStub(channel)
        request = messages.PredictionsRequest(model_name="captioner", model_version=version, input={"image": PHOTO})
        predicted = json.loads(stub.Predictions(request, timeout=60).prediction)
    for response in (explained, predicted):
        assert (response["model"]["version"], response["caption"]) == (version, captions[version])


def test_unknown_version_is_not_found(both):
    with Client(f"{both.inference}/predictions/captioner/3.0") as client, pytest.raises(EndpointError) as refused:
        client.caption(PHOTO)
    assert (refused.value.code, refused.value.type) == (404, "ModelVersionNotFoundException")


def test_management_api_registers_and_removes_no_version(both):
    for method, path in (("POST", "/models?url=captioner.mar"), ("DELETE", "/models/captioner/2.0")):
        assert requests.request(method, f"{both.management}{path}", timeout=60).status_code == 405


def test_documented_commands_exchange_the_default_version(both):
    """The default version is changed, and changed back."""
    blocks = code_blocks("docs/versions.md", "Serve two versions side by side")
    code = "".join(code for language, code in blocks if language == "sh")
    commands = [line for line in code.splitlines() if line.startswith("curl ")]
    assert len(commands) == 5

    def run(command: str) -> dict:
        command = with_server_urls(both, command).replace("curl ", "curl -sS --noproxy '*' ")
        return json.loads(subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True).stdout)

    first, second, default, forward, back = commands
    assert [run(command)["model"]["version"] for command in (first, second, default)] == ["1.0", "2.0", "1.0"]
    assert "successfully updated" in run(forward)["status"]
    assert run(default)["model"]["version"] == "2.0"
    assert run(first)["model"]["version"] == "1.0"  # still there for who names it
    assert "successfully updated" in run(back)["status"]
    assert run(default)["model"]["version"] == "1.0"

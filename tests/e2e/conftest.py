"""Real TorchServes with the project's archive, on private ports, in private folders, always stopped."""

import zipfile

import grpc
import pytest

from eval.grpc_stubs import inference_protos
from handler.captioner import Captioner
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import ROOT
from tests.helpers.servers import running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The shipped model, as it is shipped."""
    with running_server(tmp_path_factory.mktemp("server"), ROOT / "pretrained") as server:
        yield server


@pytest.fixture(scope="session")
def served(server, tmp_path_factory) -> Captioner:
    """What that server's worker runs, in this process."""
    with zipfile.ZipFile(server.archive) as archive:
        archive.extractall(folder := tmp_path_factory.mktemp("archive"))
    return Captioner.load(folder / "model", backend="auto", precision="fast")


@pytest.fixture(scope="module")
def server_with_streaming(tmp_path_factory):
    """A tiny model whose server heeds `stream` over gRPC, keeps results, and logs captions."""
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    folder = tmp_path_factory.mktemp("server_with_streaming")
    with running_server(folder, bundle, grpc_streaming=True, cache_entries=8, log_captions=True) as server:
        yield server


@pytest.fixture(scope="session")
def endpoint(server) -> str:
    return f"{server.inference}/predictions/captioner"


@pytest.fixture(scope="session")
def grpc_client(server):
    """Calls `Predictions` or another method with a map of bytes."""
    messages, services = inference_protos()
    with grpc.insecure_channel(server.grpc) as channel:
        stub = services.InferenceAPIsServiceStub(channel)

        def call(method: str, **fields: bytes):
            return getattr(stub, method)(messages.PredictionsRequest(model_name="captioner", input=fields), timeout=60)

        yield call

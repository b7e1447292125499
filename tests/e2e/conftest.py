"""A real TorchServe with the shipped model's archive, on private ports, in a private folder, always stopped."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import grpc
import pytest
import ts

from support import ROOT, private_server
from training.archive import build_archive


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    build_archive(ROOT / "pretrained", folder / "model_store")
    running = private_server(folder, folder / "model_store")
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def endpoint(server) -> str:
    return f"{server.inference}/predictions/captioner"


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """gRPC messages and stub made from the protos that TorchServe's own jar holds."""
    folder = tmp_path_factory.mktemp("protos")
    with zipfile.ZipFile(Path(ts.__file__).parent / "frontend" / "model-server.jar") as jar:
        (folder / "inference.proto").write_bytes(jar.read("proto/inference.proto"))
    google = Path(importlib.util.find_spec("google.rpc").submodule_search_locations[0]).parent.parent
    flags = [f"-I{folder}", f"-I{google}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *flags, "inference.proto"], check=True, cwd=folder)
    sys.path.insert(0, str(folder))
    try:
        yield __import__("inference_pb2"), __import__("inference_pb2_grpc")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def grpc_client(server, stubs):
    """Calls `Predictions` or another method with a map of bytes."""
    messages, services = stubs
    with grpc.insecure_channel(server.grpc) as channel:
        stub = services.InferenceAPIsServiceStub(channel)

        def call(method: str, **fields: bytes):
            return getattr(stub, method)(messages.PredictionsRequest(model_name="captioner", input=fields), timeout=60)

        yield call

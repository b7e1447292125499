"""A real TorchServe with the shipped model's archive, on private ports, in a private folder, always stopped."""

import importlib.util
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import grpc
import pytest
import ts

from deploy.server import Server
from support import ROOT
from training.archive import build_archive


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all are held until the last is found, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def private_server(folder: Path, store: Path) -> Server:
    """The project's own configuration with private ports, logs and archive."""
    inference, management, metrics, grpc_inference, grpc_management = free_ports(5)
    changed = {
        "inference_address": f"http://127.0.0.1:{inference}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "grpc_inference_port": grpc_inference,
        "grpc_management_port": grpc_management,
        "model_store": store,
    }
    kept = [
        line for line in (ROOT / "config.properties").read_text().splitlines() if line.split("=", 1)[0] not in changed
    ]
    config = folder / "config.properties"
    config.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in changed.items())]) + "\n")
    return Server(config, ROOT, folder / "logs")


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

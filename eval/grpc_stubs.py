"""gRPC's messages and stubs, made from the definitions inside TorchServe's own jar."""

import functools
import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

PROTO = "inference.proto"


@functools.cache
def inference_protos() -> tuple[ModuleType, ModuleType]:
    """The messages (`PredictionsRequest` and the like) and the services (`InferenceAPIsServiceStub`).

    Raises:
        ModuleNotFoundError: gRPC or TorchServe is not installed; the message says how to get them.
    """
    found = importlib.util.find_spec("ts")
    if found is None or importlib.util.find_spec("grpc_tools") is None:
        raise ModuleNotFoundError("gRPC needs grpcio-tools and TorchServe: pip install -r requirements/eval.txt")
    import grpc  # REST does without it

    jar = Path(found.submodule_search_locations[0], "frontend", "model-server.jar")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(jar) as archive:
        Path(folder, PROTO).write_bytes(archive.read(f"proto/{PROTO}"))
        sys.path.insert(0, folder)
        try:
            return grpc.protos_and_services(PROTO)
        finally:
            sys.path.remove(folder)

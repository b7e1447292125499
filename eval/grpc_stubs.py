"""gRPC messages and stubs, generated from the definitions in the TorchServe jar."""

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
    """Return the modules with the messages (e.g. `PredictionsRequest`) and the services (`InferenceAPIsServiceStub`).

    Raises:
        ModuleNotFoundError: If gRPC or TorchServe is not installed; the message says how to install them.
    """
    torchserve = importlib.util.find_spec("ts")
    locations = torchserve.submodule_search_locations if torchserve else None
    if not locations or importlib.util.find_spec("grpc_tools") is None:
        raise ModuleNotFoundError("gRPC needs grpcio-tools and TorchServe: pip install '.[eval]'")
    import grpc  # optional: REST works without it

    jar = Path(locations[0], "frontend", "model-server.jar")
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(jar) as archive:
        Path(directory, PROTO).write_bytes(archive.read(f"proto/{PROTO}"))
        sys.path.insert(0, directory)
        try:
            messages, services = grpc.protos_and_services(PROTO)
        finally:
            sys.path.remove(directory)
    return messages, services

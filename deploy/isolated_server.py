"""Isolated TorchServe instances: the shipped configuration with free ports, a separate archive and separate logs."""

import random
import socket
from pathlib import Path

from deploy.torchserve import TorchServe

ROOT = Path(__file__).parent.parent


def free_ports(count: int) -> list[int]:
    """Find TCP ports without a listener, below the range that the system uses for outgoing connections."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - a port number is no secret
        with socket.socket() as probe:
            if port not in ports and probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.append(port)
    return ports


def isolated_server(
    directory: Path,
    model_store: Path,
    root: Path = ROOT,
    template: Path = ROOT / "config.properties",
    **properties: str,
) -> TorchServe:
    """Build a TorchServe that shares no port, log or archive with another one.

    Args:
        directory: Receives `config.properties` and `logs`.
        model_store: Directory of the archive.
        root: Working directory of TorchServe.
        template: Properties to start from.
        **properties: Further properties to replace.
    """
    inference, management, metrics, grpc_inference, grpc_management = free_ports(5)
    overrides = {
        "inference_address": f"http://127.0.0.1:{inference}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "grpc_inference_port": grpc_inference,
        "grpc_management_port": grpc_management,
        "model_store": model_store,
    } | properties
    lines = [line for line in template.read_text().splitlines() if line.split("=", 1)[0] not in overrides]
    config = directory / "config.properties"
    config.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in overrides.items())]) + "\n")
    return TorchServe(config, root, directory / "logs")

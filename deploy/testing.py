"""TorchServes of one's own: the project's configuration with private ports, a private archive and private logs."""

from pathlib import Path

from deploy.ports import free_ports
from deploy.torchserve import TorchServe

ROOT = Path(__file__).parent.parent


def isolated_server(
    folder: Path, store: Path, root: Path = ROOT, template: Path = ROOT / "config.properties", **properties: str
) -> TorchServe:
    """A configuration of the project's with private ports, logs and archive, and what else of it is changed."""
    inference, management, metrics, grpc_inference, grpc_management = free_ports(5)
    changed = {
        "inference_address": f"http://127.0.0.1:{inference}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "grpc_inference_port": grpc_inference,
        "grpc_management_port": grpc_management,
        "model_store": store,
    } | properties
    kept = [line for line in template.read_text().splitlines() if line.split("=", 1)[0] not in changed]
    config = folder / "config.properties"
    config.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in changed.items())]) + "\n")
    return TorchServe(config, root, folder / "logs")

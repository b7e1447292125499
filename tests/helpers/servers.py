"""Real TorchServes on private ports."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.archive import build_archive
from deploy.benchmark.variants import Variant, repack
from deploy.testing import isolated_server
from deploy.torchserve import TorchServe


@contextmanager
def running_server(
    folder: Path,
    bundle: Path,
    properties: dict[str, str] | None = None,
    entry: Path | None = None,
    logs: Path | None = None,
    **settings,
) -> Iterator[TorchServe]:
    """Run a server of a bundle, and stop it at the end.

    Args:
        folder: Directory for its configuration, model store and logs.
        bundle: Bundle to serve.
        properties: TorchServe properties to change.
        entry: Replacement for the entry file of the archive.
        logs: Directory for the logs instead of one below `folder`.
        settings: Handler settings in `model-config.yaml` to change.
    """
    archive = build_archive(bundle, folder / "model_store")
    changed = {f"handler.{name}": value for name, value in settings.items()}
    repack(archive, archive, Variant("changed", changed, entry))
    server = isolated_server(folder, folder / "model_store", **(properties or {}))
    server.logs = logs or server.logs
    try:
        server.start()
        yield server
    finally:
        server.stop()

"""Real TorchServes on private ports, and their archives, which a test run packs only once."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from deploy.archive import build_archive
from deploy.benchmark.variants import Variant, repack
from deploy.isolated_server import isolated_server
from deploy.torchserve import TorchServe
from handler.bundle import CONFIG
from tests.helpers.paths import ROOT, RUN_DIRECTORY


def packed(bundle: Path, output: Path, version: str = "1.0") -> Path:
    """Write the archive of a bundle, as `build_archive` does; the same bundle is packed once per test run.

    Args:
        bundle: Bundle that is neither damaged nor incomplete.
        output: Path of the archive, or the directory for `captioner.mar`.
        version: Version of the model.

    Returns:
        The path of the archive.
    """
    key = hashlib.sha256((bundle / CONFIG).read_bytes() + version.encode()).hexdigest()[:16]
    cached = _run_directory() / "archives" / f"{key}.mar"
    with _locked(key):
        if not cached.exists():
            build_archive(bundle, cached, version)
    archive = output if output.suffix == ".mar" else output / "captioner.mar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(cached, archive)
    return archive


@contextmanager
def running_server(
    directory: Path,
    bundle: Path,
    properties: dict[str, str] | None = None,
    entry: Path | None = None,
    logs: Path | None = None,
    **settings,
) -> Iterator[TorchServe]:
    """Run a server of a bundle, and stop it at the end.

    Args:
        directory: Directory for its configuration, model store and logs.
        bundle: Bundle to serve.
        properties: TorchServe properties to change.
        entry: Replacement for the entry file of the archive.
        logs: Directory for the logs instead of one below `directory`.
        settings: Handler settings in `model-config.yaml` to change.
    """
    archive = packed(bundle, directory / "model_store")
    changed = {f"handler.{name}": value for name, value in settings.items()}
    repack(archive, archive, Variant("changed", changed, entry))
    server = isolated_server(directory, directory / "model_store", **(properties or {}))
    server.logs = logs or server.logs
    try:
        server.start()
        yield server
    finally:
        kill(server)


def kill(server: TorchServe) -> None:
    """End a server at once, where its orderly shutdown, which takes four seconds, is not what is tested."""
    for process in server.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    server.stop()


def shared_server(name: str, bundle: Path) -> TorchServe:
    """Return the server of a name that all processes of this test run share; the first to ask starts it.

    Tests that kill its worker, fill its disk or count its metrics need a server of their own.
    """
    directory = _run_directory() / "servers" / name
    config = directory / "config.properties"
    with _locked(name):
        if not config.exists():
            packed(bundle, directory / "model_store")
            try:
                isolated_server(directory, directory / "model_store").start()
            except BaseException:
                config.unlink(missing_ok=True)  # the next to ask tries again
                raise
    return TorchServe(config, ROOT, directory / "logs")


def stop_shared_servers() -> None:
    """Stop the servers that `shared_server` has started; at the end of a test run."""
    for config in _run_directory().glob("servers/*/config.properties"):
        kill(TorchServe(config, ROOT, config.parent / "logs"))


def _run_directory() -> Path:
    return Path(os.environ[RUN_DIRECTORY])


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold a lock that all processes of this test run know by its name."""
    with (_run_directory() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

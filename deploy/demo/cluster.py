"""Two servers behind a proxy on this machine, which can be replaced one after the other under load."""

import os
import shutil
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from deploy.haproxy.proxy import NAMES, Proxy
from deploy.isolated_server import isolated_server
from deploy.torchserve import TorchServe

HAS_AFFINITY = hasattr(os, "sched_setaffinity")  # Linux only


class Cluster:
    """Two TorchServe instances on free ports and an HAProxy.

    Each server is pinned to its share of the CPUs, to emulate separate machines, if there are enough CPUs.

    Args:
        directory: Directory for configurations, model stores and logs.
        archive: Archive that both servers serve at first.
    """

    def __init__(self, directory: Path, archive: Path) -> None:
        self.servers: dict[str, TorchServe] = {}
        for name in NAMES:
            model_store = directory / name / "model_store"
            model_store.mkdir(parents=True)
            self.servers[name] = isolated_server(directory / name, model_store)
        self.cpus = dict(zip(NAMES, _split_cpus(len(NAMES)), strict=True))
        self.archive = archive
        self.proxy = Proxy(self.servers, directory / "haproxy.log")

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda name: self.serve(name, self.archive), NAMES))
            self.proxy.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the proxy and both servers."""
        self.proxy.stop()
        for server in self.servers.values():
            server.stop()

    def serve(self, name: str, archive: Path) -> None:
        """Serve an archive; the server is restarted if it serves another one or has partly died."""
        server = self.servers[name]
        if archive != server.archive:
            shutil.copyfile(archive, server.archive)
        with _pin_cpus(self.cpus[name]):
            server.start()

    def replace(self, name: str, archive: Path) -> None:
        """Replace the archive of a server without losing a request: drain, restart, enable."""
        self.proxy.drain(name)
        self.serve(name, archive)
        self.proxy.enable(name)


def _split_cpus(count: int) -> list[AbstractSet[int]]:
    """Split the CPUs of this machine; every part is all of them if there are too few, or none without pinning."""
    cpus = sorted(os.sched_getaffinity(0)) if HAS_AFFINITY else []
    return [set(cpus[part::count]) if len(cpus) >= count else set(cpus) for part in range(count)]


@contextmanager
def _pin_cpus(cpus: AbstractSet[int]) -> Iterator[None]:
    """Pin processes that this thread starts in the block to some CPUs."""
    if not cpus:
        yield
        return
    previous = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, previous)

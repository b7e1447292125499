"""Two servers behind a proxy, on this machine: started together, one replaced after another while the other serves."""

import os
import shutil
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from deploy.haproxy.proxy import NAMES, Proxy
from deploy.testing import isolated_server
from deploy.torchserve import TorchServe

PINS = hasattr(os, "sched_setaffinity")  # Linux


class Cluster:
    """Two TorchServes on private ports and an HAProxy.

    Each server is held to its share of the machine's cores, as if it were a machine of its own, where there are enough.

    Args:
        folder: for the servers' configurations, model stores and logs.
        archive: what both serve at first.
    """

    def __init__(self, folder: Path, archive: Path):
        self.servers: dict[str, TorchServe] = {}
        for name in NAMES:
            store = folder / name / "model_store"
            store.mkdir(parents=True)
            self.servers[name] = isolated_server(folder / name, store)
        self.cores = dict(zip(NAMES, _shares(len(NAMES)), strict=True))
        self.archive = archive
        self.proxy = Proxy(self.servers, folder / "haproxy.log")

    def __enter__(self) -> "Cluster":
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda name: self.serve(name, self.archive), NAMES))
            self.proxy.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends them all."""
        self.proxy.stop()
        for server in self.servers.values():
            server.stop()

    def serve(self, name: str, archive: Path) -> None:
        """Has a server serve an archive; it is started, or started anew where it serves another or is half dead."""
        server = self.servers[name]
        if archive != server.archive:
            shutil.copyfile(archive, server.archive)
        with _on(self.cores[name]):
            server.start()

    def replace(self, name: str, archive: Path) -> None:
        """Has a server serve another archive without a request lost: drained, stopped, started, admitted once READY."""
        self.proxy.drain(name)
        self.serve(name, archive)
        self.proxy.admit(name)


def _shares(count: int) -> list[Set[int]]:
    """The cores of this machine in so many parts; all of them for each where there are too few, or none can be set."""
    cores = sorted(os.sched_getaffinity(0)) if PINS else []
    return [set(cores[part::count]) if len(cores) >= count else set(cores) for part in range(count)]


@contextmanager
def _on(cores: Set[int]) -> Iterator[None]:
    """Has what this thread starts run on some cores only."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

"""What a server's processes take, looked at every few seconds."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil

from deploy.torchserve import TorchServe, is_jvm

MB = 2**20


class Sample(NamedTuple):
    """The processes at one moment; of several workers the sums.

    Attributes:
        at: a time of `perf_counter`.
        worker_mb, jvm_mb: resident.
        worker_files, jvm_files: open, sockets among them.
        worker_threads, jvm_threads: of either.
        children: of the JVM and theirs, the workers among them.
    """

    at: float
    worker_mb: float
    jvm_mb: float
    worker_files: int
    jvm_files: int
    worker_threads: int
    jvm_threads: int
    children: int


FIGURES = Sample._fields[1:]


class Watch:
    """Takes samples in a thread of its own.

    Args:
        server: running.
        every: seconds.

    Attributes:
        samples: so far.
        workers: process ids of all workers there have been.
        unready: samples at which no worker was READY, or a process was gone.
    """

    def __init__(self, server: TorchServe, every: float):
        self.server, self.every = server, every
        self.samples: list[Sample] = []
        self.workers: set[int] = set()
        self.unready = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self.every):
            try:
                self.samples.append(self._sample())
                self.unready += not self.server.ready()
            except (psutil.Error, ValueError):  # ended meanwhile: there is no JVM
                self.unready += 1

    def _sample(self) -> Sample:
        processes = self.server.processes()
        [jvm] = [process for process in processes if is_jvm(process)]
        workers = [process for process in processes if process != jvm]
        self.workers |= {worker.pid for worker in workers}

        def both(count: Callable[[psutil.Process], float]) -> tuple[float, float]:
            return sum(map(count, workers)), count(jvm)

        return Sample(
            time.perf_counter(),
            *both(lambda process: process.memory_info().rss / MB),
            *both(lambda process: process.num_fds()),
            *both(lambda process: process.num_threads()),
            len(jvm.children(recursive=True)),
        )

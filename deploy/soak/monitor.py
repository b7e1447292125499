"""Sample the resources of the processes of a server."""

import threading
import time
from typing import NamedTuple, Self

import psutil

from deploy.torchserve import TorchServe, is_jvm

MB = 2**20


class Sample(NamedTuple):
    """Resources at one moment; sums over all workers.

    Attributes:
        at: Time, from `time.perf_counter`.
        worker_mb: Resident memory of the workers, MB.
        jvm_mb: Resident memory of the JVM, MB.
        worker_files: Open files and sockets of the workers.
        jvm_files: Open files and sockets of the JVM.
        worker_threads: Threads of the workers.
        jvm_threads: Threads of the JVM.
        children: Descendants of the JVM, including the workers.
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


class ResourceMonitor:
    """Take samples in a background thread.

    Args:
        server: Running server.
        interval: Seconds from one sample to the next.

    Attributes:
        samples: Samples so far.
        workers: Process IDs of all workers so far.
        unready: Number of samples without a READY worker or with a missing process.
    """

    def __init__(self, server: TorchServe, interval: float) -> None:
        self.server, self.interval = server, interval
        self.samples: list[Sample] = []
        self.workers: set[int] = set()
        self.unready = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            try:
                self.samples.append(self._sample())
                self.unready += not self.server.ready()
            except (psutil.Error, ValueError):  # a process has ended; ValueError if it is the JVM
                self.unready += 1

    def _sample(self) -> Sample:
        processes = self.server.processes()
        [jvm] = [process for process in processes if is_jvm(process)]
        workers = [process for process in processes if process != jvm]
        self.workers |= {worker.pid for worker in workers}
        return Sample(
            at=time.perf_counter(),
            worker_mb=sum(worker.memory_info().rss for worker in workers) / MB,
            jvm_mb=jvm.memory_info().rss / MB,
            worker_files=sum(worker.num_fds() for worker in workers),
            jvm_files=jvm.num_fds(),
            worker_threads=sum(worker.num_threads() for worker in workers),
            jvm_threads=jvm.num_threads(),
            children=len(jvm.children(recursive=True)),
        )

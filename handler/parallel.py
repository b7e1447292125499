"""How many threads a worker has, and pictures decoded side by side in them."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

CGROUP = "/sys/fs/cgroup/cpu.max"
Given, Made = TypeVar("Given"), TypeVar("Made")


def available_cpus() -> int:
    """The processors that this process may use: a container may have a share of the machine's."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path(CGROUP).read_text(encoding="ascii").split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file; `max`, which is no limit
        return count


def parallel_map(make: Callable[[Given], Made], items: Iterable[Given]) -> list[Made]:
    """`make` of each item, in their order, as many at a time as PyTorch has threads; a lone one in this thread.

    It is for decoding pictures: Pillow lets go of Python's lock meanwhile.

    Raises:
        Exception: what `make` raises for the first item that it does for.
    """
    items = list(items)
    threads = torch.get_num_threads()
    if len(items) < 2 or threads < 2:
        return [make(item) for item in items]
    return list(_pool(os.getpid(), threads).map(make, items))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """A process' own: threads do not come along when it forks."""
    return ThreadPoolExecutor(threads, thread_name_prefix="decode")

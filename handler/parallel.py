"""Number of usable CPUs, and a thread pool for decoding images in parallel."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

CGROUP = "/sys/fs/cgroup/cpu.max"
T = TypeVar("T")
R = TypeVar("R")


def available_cpus() -> int:
    """Return the number of CPUs that this process may use, at least 1; a container's CPU limit counts."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path(CGROUP).read_text(encoding="ascii").split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or `max`, which means no limit
        return count


def parallel_map(fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply a function to each item in as many threads as PyTorch has; a single item runs in this thread.

    It is meant for decoding images: Pillow releases the GIL meanwhile.

    Args:
        fn: The function.
        items: Its arguments.

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: The error of the first item that fails.
    """
    items = list(items)
    threads = torch.get_num_threads()
    if len(items) < 2 or threads < 2:
        return [fn(item) for item in items]
    return list(_pool(os.getpid(), threads).map(fn, items))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:  # noqa: ARG001 -- part of the cache key
    """One pool per process: threads do not survive `fork()`."""
    return ThreadPoolExecutor(threads, thread_name_prefix="decode")

"""Pictures decoded side by side: Pillow lets go of Python's lock meanwhile."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Given, Made = TypeVar("Given"), TypeVar("Made")


def in_threads(make: Callable[[Given], Made], items: Iterable[Given]) -> list[Made]:
    """`make` of each item, in their order, as many at a time as PyTorch has threads; a lone one in this thread.

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

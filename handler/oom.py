"""Where memory runs out: what tells of it, and the same work by halves, which need less of it at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from handler.errors import InternalError, OutOfMemory, RequestError

Item, Fault = TypeVar("Item"), TypeVar("Fault")
SIGNS = (  # in lower case; PyTorch says it of the CPU with a RuntimeError, as do OpenVINO and CUDA's libraries
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was too little memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(sign in str(error).lower() for sign in SIGNS)


def fault(error: Exception, failed: str) -> RequestError:
    """What an answer says where an error is not the caller's.

    Args:
        error: what was raised; its traceback, which holds the memory of what failed, is not kept.
        failed: what could not be done, a clause.
    """
    if is_out_of_memory(error):
        return OutOfMemory(f"{failed}: the server has too little memory for it.")
    return InternalError(f"{failed}: the server's log says why.")


def retry_in_halves(
    items: Sequence[Item], attempt: Callable[[Sequence[Item]], Fault | None]
) -> Iterator[tuple[Item, Fault]]:
    """Attempts something with all items together; where that fails, with each half, down to the items one by one.

    Args:
        items: one at least.
        attempt: returns what went wrong, and by then has let go of the memory it took; None where all went well.

    Returns:
        Each item that fails alone, and what went wrong.
    """
    failed = attempt(items)
    if failed is None:
        return
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # what PyTorch keeps of the try's tensors are pieces of other sizes
    if len(items) == 1:
        yield items[0], failed
        return
    half = len(items) // 2
    yield from retry_in_halves(items[:half], attempt)
    yield from retry_in_halves(items[half:], attempt)

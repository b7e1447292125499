"""Where memory runs out: what tells of it, and the same work by halves, which need less of it at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from handler.errors import InternalError, OutOfMemory, RequestError

ItemT = TypeVar("ItemT")
ErrorT = TypeVar("ErrorT")
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


def to_request_error(error: Exception, action: str) -> RequestError:
    """What an answer says where an error is not the caller's.

    Args:
        error: what was raised; its traceback, which holds the memory of what failed, is not kept.
        action: what failed, a sentence without its full stop.
    """
    if is_out_of_memory(error):
        return OutOfMemory(f"{action}: the server has too little memory for it.")
    return InternalError(f"{action}: the server's log says why.")


def retry_in_halves(
    items: Sequence[ItemT], attempt: Callable[[Sequence[ItemT]], ErrorT | None]
) -> Iterator[tuple[ItemT, ErrorT]]:
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

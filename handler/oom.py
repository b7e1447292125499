"""Out-of-memory handling: detect OOM errors and retry a failed batch in halves."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from handler.errors import InternalError, OutOfMemory, RequestError

ItemT = TypeVar("ItemT")
ErrorT = TypeVar("ErrorT")
# In lower case. PyTorch on a CPU, OpenVINO and the CUDA libraries raise a RuntimeError with one of them.
OOM_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error reports that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error).lower() for text in OOM_MESSAGES)


def to_request_error(error: Exception, action: str) -> RequestError:
    """Return the error of a response for a failure that the client did not cause.

    Args:
        error: The failure. It is not kept: its traceback holds the memory of what failed.
        action: What failed, a clause, e.g. `The image could not be captioned`.
    """
    if is_out_of_memory(error):
        return OutOfMemory(f"{action}: the server has too little memory for it.")
    return InternalError(f"{action}: the log of the server has the reason.")


def retry_in_halves(
    items: Sequence[ItemT], attempt: Callable[[Sequence[ItemT]], ErrorT | None]
) -> Iterator[tuple[ItemT, ErrorT]]:
    """Attempt all items together; after a failure attempt each half, down to single items.

    Args:
        items: At least one item.
        attempt: Returns None on success, else the error, after it has released its memory.

    Yields:
        Each item that fails by itself, with its error.
    """
    error = attempt(items)
    if error is None:
        return
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # untyped in torch
        torch.cuda.empty_cache()  # the cached blocks have the sizes of the failed attempt
    if len(items) == 1:
        yield items[0], error
        return
    half = len(items) // 2
    yield from retry_in_halves(items[:half], attempt)
    yield from retry_in_halves(items[half:], attempt)

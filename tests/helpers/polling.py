"""Waiting for a condition."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], seconds: float = 60, pause: float = 0.02) -> None:
    """Wait until a condition holds; fail if it does not within some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds} seconds"
        time.sleep(pause)

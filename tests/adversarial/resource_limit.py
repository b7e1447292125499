"""CPU time and peak memory of a block of code."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Usage:
    """Usage of a block.

    Attributes:
        seconds: CPU time.
        memory: Peak growth of the process in MB.
    """

    seconds = 0.0
    memory = 0


@contextmanager
def resource_limit(seconds: float) -> Iterator[Usage]:
    """Measure a block, and interrupt it after ten times as many seconds of wall time.

    Raises:
        TimeoutError: If it was interrupted.
    """

    def interrupt(*_):
        raise TimeoutError

    usage = Usage()
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    resident, start = _status("VmRSS"), time.process_time()
    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
    try:
        yield usage
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        usage.seconds, usage.memory = time.process_time() - start, _status("VmHWM") - resident


def _status(name: str) -> int:
    """Return a value in MB; decoders allocate outside of Python, which does not know of it."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) // 1024

"""What a piece of work takes: processor time, and memory as the system counts it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Usage:
    """Seconds of the processor's time, and MB that the process grew by at most meanwhile."""

    seconds = 0.0
    memory = 0


@contextmanager
def resource_limit(seconds: float) -> Iterator[Usage]:
    """Measures; a loop of Python's that takes ten times as long by the clock is broken off.

    Raises:
        TimeoutError: it was.
    """

    def give_up(*_):
        raise TimeoutError

    taken = Usage()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    resident, began = _status("VmRSS"), time.process_time()
    earlier = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
    try:
        yield taken
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        taken.seconds, taken.memory = time.process_time() - began, _status("VmHWM") - resident


def _status(name: str) -> int:
    """In MB; decoders allocate outside of Python, so that Python itself does not know."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) // 1024

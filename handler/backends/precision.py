"""The encoder's precision: on a CPU, the fastest one that is offered, chosen by measuring.

A processor that has instructions for a type is not always fast with it, so no processor flag decides. The encoder is
timed in each precision that its backend offers. The times are kept in a file per machine and bundle: later starts
measure nothing.
"""

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from handler.backends.engine import EncoderBackend, ModelSource
from handler.bundle import WEIGHTS
from handler.files import atomic_write_text

logger = logging.getLogger(__name__)

BUDGET = 0.3  # seconds of measuring
MIN_ROUNDS = 3  # even if that takes longer
MIN_GAIN = 1.05  # a less precise encoder must be this many times as fast as a more precise one


def build_fastest(
    source: ModelSource, offered: Sequence[str], build: Callable[[str], EncoderBackend], runtime: str
) -> EncoderBackend:
    """Build an encoder in the precision of a source; measure to choose one if the source leaves that open.

    Args:
        source: The bundle's parts, and how to run them.
        offered: Precisions that the backend can run the bundle in, the most precise first.
        build: Builds the encoder in one of them.
        runtime: Name and version of what runs the encoder: other versions are measured again.

    Raises:
        ValueError: If the source names a precision that is not offered.
    """
    if (name := source.encoder_precision) is not None:
        if name not in offered:
            raise ValueError(f"This encoder runs in {', '.join(offered)} here, not in {name}.")
        return build(name)
    if len(offered) == 1:
        return build(offered[0])
    key = {
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "runtime": runtime,
        "encoder": source.config.encoder,
        "size": source.config.preprocessing.size,
        "weights": source.config.files.get(WEIGHTS, {}).get("sha256", ""),
        "offered": list(offered),
    }
    path = cache_path(key)
    if times := _read_times(path, offered):
        name = choose(times)
        logger.info("The encoder runs in %s: %s ms per image, measured before.", name, times)
        return replace(build(name), milliseconds=times)
    encoders = _build_all(offered, build)
    size = source.config.preprocessing.size
    noise = torch.Generator().manual_seed(0)  # the global one belongs to the caller
    pixels = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=noise)
    times = measure({name: partial(encoder.encode, pixels) for name, encoder in encoders.items()})
    name = choose(times)
    logger.info("The encoder runs in %s: %s ms per image.", name, times)
    _write_times(path, key, times)
    return replace(encoders[name], milliseconds=times)


def measure(runs: Mapping[str, Callable[[], object]], budget: float = BUDGET) -> dict[str, float]:
    """Time several calls in turn, so that other load affects all alike.

    Args:
        runs: The calls by name.
        budget: Seconds that the timed calls may take together.

    Returns:
        The shortest time of each in milliseconds, rounded to 0.01.
    """
    for run in runs.values():
        run()  # the first call allocates
    times = dict.fromkeys(runs, float("inf"))
    start, rounds = time.perf_counter(), 0
    while rounds < MIN_ROUNDS or time.perf_counter() - start < budget:
        for name, run in runs.items():
            before = time.perf_counter()
            run()
            times[name] = min(times[name], time.perf_counter() - before)
        rounds += 1
    return {name: round(1e3 * seconds, 2) for name, seconds in times.items()}


def choose(times: Mapping[str, float]) -> str:
    """Return the fastest of some precisions, the most precise first; a small gain is not worth precision."""
    best = next(iter(times))
    for name, elapsed in times.items():
        if elapsed * MIN_GAIN <= times[best]:
            best = name
    return best


def processor_name() -> str:
    """Return the name of the processor, e.g. `AMD EPYC 9654 96-Core Processor`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cache_path(key: Mapping[str, object]) -> Path | None:
    """Return the file of the times that were measured under a key; None if the user has no home directory."""
    try:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "captioner")
    except RuntimeError:  # as in a container
        return None
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return directory / f"precision-{digest[:16]}.json"


def _build_all(offered: Sequence[str], build: Callable[[str], EncoderBackend]) -> dict[str, EncoderBackend]:
    """Build the encoder in each precision; one that fails, other than the most precise, is left out."""
    encoders = {}
    for name in offered:
        try:
            encoders[name] = build(name)
        except Exception:
            if name == offered[0]:
                raise
            logger.warning("The encoder does not run in %s.", name, exc_info=True)
    return encoders


def _read_times(path: Path | None, offered: Sequence[str]) -> dict[str, float] | None:
    """Read the times of an earlier start in the order of `offered`; None if there are none."""
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["milliseconds"]
        times = {name: float(content[name]) for name in offered if name in content}
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return times or None


def _write_times(path: Path | None, key: Mapping[str, object], times: Mapping[str, float]) -> None:
    """Keep the times for later starts, if the directory can be written."""
    if path is None:
        logger.info("The measured precision is not kept: there is no home directory.")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps({**key, "milliseconds": times}, indent=1) + "\n")
    except OSError as error:
        logger.info("The measured precision is not kept: %s", error)

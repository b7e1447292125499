"""Variants of an archive: other values in `model-config.yaml`, or another TorchServe entry point."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.archive import HANDLER_FILE, MODEL_CONFIG
from handler.files import atomic_write
from handler.parallel import available_cpus


@dataclass(frozen=True)
class Variant:
    """One way to serve a bundle.

    Attributes:
        name: Name in tables.
        settings: Values for `model-config.yaml`; a dot separates levels, e.g. `handler.backend`.
        entry: Python file that replaces the TorchServe entry point.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    entry: Path | None = None


SINGLE_WORKER = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 1, "maxBatchDelay": 1}
BASELINE_ENTRY = Path(__file__).with_name("baseline_service.py")
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("baseline", SINGLE_WORKER, BASELINE_ENTRY),
        Variant("default"),
        Variant("eager", {"handler.backend": "eager"}),
        Variant("full", {"handler.precision": "full"}),
        Variant("fastest", {"handler.precision": "fastest"}),
        Variant("no-delay", {"maxBatchDelay": 1}),
        Variant(
            "fastest-workers",  # a worker per CPU
            {
                "minWorkers": available_cpus(),
                "maxWorkers": available_cpus(),
                "maxBatchDelay": 1,
                "handler.precision": "fastest",
            },
        ),
        Variant("compile", {"handler.backend": "compile", "startupTimeout": 600}),
    )
}


def grid() -> list[Variant]:
    """List the variants of `--tune`: numbers of workers that share the CPUs, with batch sizes and batch delays."""
    return [
        Variant(
            f"{workers} × {available_cpus() // workers} threads, batch {batch}, {delay} ms",
            {"minWorkers": workers, "maxWorkers": workers, "batchSize": batch, "maxBatchDelay": delay},
        )
        for workers in (1, 2, 4, 8, 16)
        if available_cpus() % workers == 0
        for batch, delay in ((1, 1), (4, 1), (8, 1), (8, 10), (16, 1))
    ]


def repack(archive: Path, target: Path, variant: Variant) -> Path:
    """Write the archive of a variant.

    Args:
        archive: Archive to change.
        target: Path of the new archive; may be `archive`.
        variant: Changes to make.

    Returns:
        `target`.

    Raises:
        KeyError: If `model-config.yaml` has no such setting.
    """
    with (
        atomic_write(target) as partial,
        zipfile.ZipFile(archive) as source,
        zipfile.ZipFile(partial, "w") as changed,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name == MODEL_CONFIG:
                content = _change_settings(content, variant.settings)
            if name == HANDLER_FILE and variant.entry:
                content = variant.entry.read_bytes()
            changed.writestr(name, content)
    return target


def _change_settings(content: bytes, settings: Mapping[str, Any]) -> bytes:
    config = yaml.safe_load(content)
    for name, value in settings.items():
        *parents, last = name.split(".")
        section = config
        for parent in parents:
            section = section[parent]
        if last not in section:
            raise KeyError(name)
        section[last] = value
    return yaml.safe_dump(config, sort_keys=False).encode()

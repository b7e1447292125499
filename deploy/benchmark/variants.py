"""Ways to serve a bundle: changes to `model-config.yaml`, or another entry; and their archives."""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.archive import ENTRY, SETTINGS
from handler.parallel import available_cpus


@dataclass(frozen=True)
class Variant:
    """One way to serve a bundle.

    Attributes:
        name: in tables.
        settings: of `model-config.yaml`, those below `handler` under their names with a point, `handler.backend`.
        entry: a file that stands in the place of the handler's entry.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    entry: Path | None = None


ALONE = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 1, "maxBatchDelay": 1}
BASELINE = Variant("baseline", ALONE, Path(__file__).with_name("baseline_service.py"))
VARIANTS = {
    variant.name: variant
    for variant in (
        BASELINE,
        Variant("default"),
        Variant("eager", {"handler.backend": "eager"}),
        Variant("full", {"handler.precision": "full"}),
        Variant("fastest", {"handler.precision": "fastest"}),
        Variant("prompt", {"maxBatchDelay": 1}),
        Variant(
            "fastest-workers",  # a worker a core, which share nothing
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
    """Numbers of workers that share this machine's cores, each with batches' sizes and how long one waits for them."""
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
    """An archive as a variant has it; `target` may be `archive`.

    Raises:
        KeyError: `model-config.yaml` has no such setting.
    """
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(partial, "w") as changed:
        for name in source.namelist():
            content = source.read(name)
            if name == SETTINGS:
                content = _changed(content, variant.settings)
            if name == ENTRY and variant.entry:
                content = variant.entry.read_bytes()
            changed.writestr(name, content)
    os.replace(partial, target)
    return target


def _changed(content: bytes, settings: Mapping[str, Any]) -> bytes:
    configured = yaml.safe_load(content)
    for name, value in settings.items():
        *above, last = name.split(".")
        place = configured
        for part in above:
            place = place[part]
        if last not in place:
            raise KeyError(name)
        place[last] = value
    return yaml.safe_dump(configured, sort_keys=False).encode()

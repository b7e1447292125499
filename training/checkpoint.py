"""Checkpoints: one safetensors file, written whole or not at all, from which a run goes on at the very step."""

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save_checkpoint(path: Path, parts: dict[str, dict[str, torch.Tensor]], progress: dict[str, float]) -> None:
    """Writes tensors and numbers; a kill or a full disk in between leaves the old file whole.

    Args:
        path: the file.
        parts: such as `model`, `average` and `optimizer`; each a dict of tensors.
        progress: numbers such as the step.

    Raises:
        OSError: there is no room, or no permission; nothing half-written is left.
    """
    tensors = {f"{part}.{name}": tensor.contiguous() for part, some in parts.items() for name, tensor in some.items()}
    partial = path.with_suffix(".partial")
    try:
        try:
            save_file(tensors, partial, metadata={name: repr(value) for name, value in progress.items()})
        except Exception as error:  # safetensors wraps the system's error in its own
            raise OSError(f"{path} can't be written: {error}.") from error
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, float]]:
    """What `save_checkpoint` wrote: the parts and the progress."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118, it is no mapping
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = file.get_tensor(name)
        return parts, {name: float(value) for name, value in file.metadata().items()}


def fill(tensors: dict[str, torch.Tensor], saved: dict[str, torch.Tensor]) -> None:
    """Copies saved tensors into a model's, in place.

    Raises:
        ValueError: they are of another model; the message names what differs.
    """
    differs = sorted(
        name
        for name in tensors.keys() | saved
        if name not in tensors or name not in saved or tensors[name].shape != saved[name].shape
    )
    if differs:
        raise ValueError(f"The checkpoint is of another model: {', '.join(differs[:5])} differ.")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The state of an optimizer, `<parameter's place>.<name>`; its rates are not kept, the schedule knows them."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, some in state.items() for name, value in some.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None:
    """Puts back what `optimizer_state` gave."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in saved.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    for parameter, restored in optimizer.state.items():
        for key, value in restored.items():
            if value.shape == parameter.shape:  # a fused step reads both as they lie in memory: in one layout, then
                restored[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

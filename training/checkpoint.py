"""Checkpoints: one safetensors file, written atomically, from which a run resumes at the exact step."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from handler.files import atomic_write

TensorDict = Mapping[str, torch.Tensor]


def save_checkpoint(path: Path, parts: Mapping[str, TensorDict], progress: Mapping[str, float]) -> None:
    """Write tensors and numbers atomically: a kill or a full disk leaves the previous checkpoint.

    Args:
        path: File to write.
        parts: Tensors by name for each part, e.g. `model`, `average` and `optimizer`.
        progress: Numbers such as the step.

    Raises:
        OSError: If the file cannot be written.
    """
    tensors = {
        f"{part}.{name}": tensor.contiguous() for part, tensors in parts.items() for name, tensor in tensors.items()
    }
    with atomic_write(path) as partial:
        try:
            save_file(tensors, partial, metadata={name: repr(value) for name, value in progress.items()})
        except Exception as error:  # safetensors wraps the OSError in its own type
            raise OSError(f"{path} cannot be written: {error}.") from error
        with partial.open("rb") as file:
            os.fsync(file.fileno())


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, float]]:
    """Load the parts and the progress that `save_checkpoint` wrote."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = file.get_tensor(name)
        return parts, {name: float(value) for name, value in file.metadata().items()}


def copy_into(tensors: TensorDict, saved: TensorDict) -> None:
    """Copy saved tensors into those of a model, in place.

    Raises:
        ValueError: If names or shapes differ; the message lists the first ones.
    """
    differing = sorted(
        name
        for name in tensors.keys() | saved.keys()
        if name not in tensors or name not in saved or tensors[name].shape != saved[name].shape
    )
    if differing:
        raise ValueError(f"The checkpoint is of another model: {', '.join(differing[:5])} differ.")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the state of an optimizer as `<parameter index>.<name>`, without learning rates (see `optim`)."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, values in state.items() for name, value in values.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: TensorDict) -> None:
    """Restore what `optimizer_state` returned."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in saved.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    for parameter, restored in optimizer.state.items():
        for key, value in restored.items():
            if value.shape == parameter.shape:  # the fused step needs the memory layout of the parameter
                restored[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

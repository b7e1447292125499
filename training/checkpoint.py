"""Checkpoints: one safetensors file, written whole or not at all, from which a run goes on at the very step."""

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, progress: dict[str, float]
) -> None:
    """Writes the model's weights, the optimizer's state and `progress`; a kill in between leaves the old file whole.

    Args:
        path: the file.
        model: whose `state_dict` is kept.
        optimizer: of the model's parameters, or None; its rates are not kept, the schedule knows them.
        progress: numbers such as the step.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in (optimizer.state_dict()["state"] if optimizer else {}).items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={name: repr(value) for name, value in progress.items()})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, float]:
    """Fills model and optimizer with what `save_checkpoint` wrote; returns `progress`.

    Raises:
        RuntimeError: the checkpoint is of another model; the message names what differs.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
        progress = {name: float(value) for name, value in file.metadata().items()}
    model.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    if optimizer is not None:
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return progress

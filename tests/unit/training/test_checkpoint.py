"""Checkpoints are written atomically and restore the exact state."""

import pytest
import torch
from torch import nn

from training.checkpoint import copy_into, load_checkpoint, load_optimizer_state, optimizer_state, save_checkpoint


def stepped():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_save_checkpoint_is_restored_exactly(tmp_path):
    model, optimizer = stepped()
    path = tmp_path / "checkpoint.safetensors"
    parts = {"model": dict(model.named_parameters()), "optimizer": optimizer_state(optimizer)}
    save_checkpoint(path, parts, {"step": 7, "best": 0.1 + 0.2})
    other = nn.Linear(2, 2)
    restored = torch.optim.AdamW(other.parameters())
    saved, progress = load_checkpoint(path)
    copy_into(dict(other.named_parameters()), saved["model"])
    load_optimizer_state(restored, saved["optimizer"])
    assert progress == {"step": 7.0, "best": 0.1 + 0.2}  # to the last bit
    assert torch.equal(other.weight, model.weight)
    for left, right in zip(optimizer.state.values(), restored.state.values(), strict=True):
        assert left.keys() == right.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_save_checkpoint_failed_write_leaves_the_previous_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"model": {"x": torch.ones(2)}}, {"step": 7})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.checkpoint.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"model": {"x": torch.zeros(2)}}, {"step": 8})
    parts, progress = load_checkpoint(path)
    assert progress == {"step": 7.0}
    assert parts["model"]["x"].tolist() == [1, 1]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_copy_into_other_names_or_shapes_are_refused():
    with pytest.raises(ValueError, match="of another model: a, b, c differ"):
        copy_into({"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(3), "c": torch.ones(1)})


def test_load_optimizer_state_channels_last_weights_continue_identically(tmp_path):
    # A fused step reads weights and moments in memory order, so both need the same layout.
    def start(steps):
        torch.manual_seed(0)
        model = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        return model, optimizer, steps

    def train(model, optimizer, steps):
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            model(torch.randn(2, 8, 5, 5)).square().mean().backward()
            optimizer.step()

    uninterrupted = start(range(6))
    train(*uninterrupted)
    first = start(range(3))
    train(*first)
    path = tmp_path / "checkpoint.safetensors"
    parts = {"model": dict(first[0].named_parameters()), "optimizer": optimizer_state(first[1])}
    save_checkpoint(path, parts, {"step": 3})
    second = start(range(3, 6))
    saved, _ = load_checkpoint(path)
    copy_into(dict(second[0].named_parameters()), saved["model"])
    load_optimizer_state(second[1], saved["optimizer"])
    train(*second)
    torch.testing.assert_close(second[0].weight, uninterrupted[0].weight, rtol=0, atol=0)

"""PyTorch, operation by operation: the reference, on any device."""

import torch

from handler.backends.engine import Encode, ModelSource, autocast

PART = 4  # pictures at once on a CPU: larger tensors are asked of the system anew in each layer, at half the time


def build(source: ModelSource) -> tuple[Encode, int]:
    """The encoder, and the channels of a cell."""
    encoder, device = source.encoder(), source.device

    @torch.inference_mode()
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.pin_memory() if device.type == "cuda" else pixels
        parts = pixels.split(PART if device.type == "cpu" else len(pixels))
        with autocast(source):
            grids = [encoder(part.to(device, non_blocking=True)).float() for part in parts]
        return grids[0] if len(grids) == 1 else torch.cat(grids)

    return encode, encoder.encoder.channels

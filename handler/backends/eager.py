"""PyTorch, operation by operation: the reference, on any device."""

import torch

from handler.backends.base import Encode, Source, has_bfloat16


def build(source: Source) -> tuple[Encode, int]:
    """The encoder, and the channels of a cell."""
    encoder, device = source.encoder(), source.device
    halved = source.fast and has_bfloat16(device)

    @torch.inference_mode()
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.pin_memory() if device.type == "cuda" else pixels
        with torch.autocast(device.type, torch.bfloat16, enabled=halved):
            return encoder(pixels.to(device, non_blocking=True)).float()

    return encode, encoder.encoder.channels

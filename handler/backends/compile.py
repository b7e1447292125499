"""`torch.compile`: layers fused, weights folded in. It needs a C++ compiler and a minute at the start."""

import torch
from torch._inductor import config as inductor

from handler.backends.buckets import by_buckets
from handler.backends.engine import Encode, ModelSource, autocast

LARGEST = {"cpu": 16, "cuda": 256}  # parts of a batch: a CPU is no faster with more


def build(source: ModelSource) -> tuple[Encode, int]:
    """The encoder, and the channels of a cell. Each size of `BUCKETS` is compiled when it first comes."""
    encoder, device = source.encoder(), source.device
    if device.type == "cuda":  # CUDA graphs: all kernels of a batch are started at once
        compiled = torch.compile(encoder, mode="reduce-overhead", dynamic=False)
    else:
        compiled = torch.compile(encoder, dynamic=False)

    @torch.inference_mode()
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.pin_memory() if device.type == "cuda" else pixels
        # Frozen weights are laid out for the processor and normalisation is folded into them.
        with inductor.patch(freezing=True), autocast(source):
            return compiled(pixels.to(device, non_blocking=True)).float().clone()  # the next call writes there again

    return by_buckets(encode, LARGEST.get(device.type, LARGEST["cpu"])), encoder.encoder.channels

"""PyTorch backends: `eager`, the reference on any device, and `compile`, which needs a C++ compiler and a minute."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch

from handler.backends.engine import EncodeFn, EncoderBackend, ModelSource
from handler.backends.precision import build_fastest
from handler.backends.quantize import supports_bf16_linear

# Images per chunk on a CPU. Larger activations exceed the allocator's cache and are re-allocated in every layer, which
# takes about half of the run time.
CHUNK_SIZE = 4
MAX_BATCH_SIZE = {"cpu": 16, "cuda": 256}  # images per compiled batch; a CPU is no faster with more
BUCKETS = (256, 128, 64, 32, 16, 8, 4, 2, 1)  # batch sizes


def build_eager(source: ModelSource) -> EncoderBackend:
    """Build the encoder for eager execution."""
    encoder, device = source.build_encoder(), source.device

    def build(precision: str) -> EncoderBackend:
        @torch.inference_mode()
        def encode(pixels: torch.Tensor) -> torch.Tensor:
            pixels = pixels.pin_memory() if device.type == "cuda" else pixels
            chunks = torch.split(pixels, CHUNK_SIZE if device.type == "cpu" else len(pixels))
            with autocast(device, precision):
                grids = [encoder(chunk.to(device, non_blocking=True)).float() for chunk in chunks]
            return grids[0] if len(grids) == 1 else torch.cat(grids)

        return EncoderBackend(encode, encoder.encoder.channels, _warm_up_sizes, precision)

    return build_fastest(source, offered_precisions(device), build, f"PyTorch {torch.__version__}")


def build_compiled(source: ModelSource) -> EncoderBackend:
    """Build the encoder with `torch.compile`. Each size of `BUCKETS` is compiled when it is first used.

    A precision that is open is the one that is faster without compilation, which takes too long to try.
    """
    from torch._inductor import config as inductor  # takes seconds

    if source.encoder_precision is None:
        source = replace(source, precision=build_eager(source).precision)
    encoder, device = source.build_encoder(), source.device
    if device.type == "cuda":  # CUDA graphs: one launch for all kernels of a batch
        compiled = torch.compile(encoder, mode="reduce-overhead", dynamic=False)
    else:
        compiled = torch.compile(encoder, dynamic=False)

    def build(precision: str) -> EncoderBackend:
        @torch.inference_mode()
        def encode(pixels: torch.Tensor) -> torch.Tensor:
            pixels = pixels.pin_memory() if device.type == "cuda" else pixels
            # Freezing lays out the weights for the CPU and folds the normalization into them.
            with inductor.patch(freezing=True), autocast(device, precision):
                grid: torch.Tensor = compiled(pixels.to(device, non_blocking=True))
                return grid.float().clone()  # the next call reuses the output buffer

        max_batch_size = MAX_BATCH_SIZE.get(device.type, MAX_BATCH_SIZE["cpu"])
        encode_all = split_batches(encode, max_batch_size)
        return EncoderBackend(encode_all, encoder.encoder.channels, _warm_up_sizes, precision)

    return build_fastest(source, offered_precisions(device), build, f"PyTorch {torch.__version__}, compiled")


def offered_precisions(device: torch.device) -> list[str]:
    """Return the precisions that PyTorch can run an encoder in, the most precise first."""
    if device.type == "cuda":
        return ["float32", "float16"]
    return ["float32", "bfloat16"] if supports_bf16_linear() else ["float32"]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which PyTorch computes in a precision."""
    dtype = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def split_batches(encode: EncodeFn, max_batch_size: int) -> EncodeFn:
    """Return an `encode` for any batch size that calls the given one with the sizes of `BUCKETS` only."""

    def encode_all(pixels: torch.Tensor) -> torch.Tensor:
        grids = [encode(part) for part in torch.split(pixels, bucket_sizes(len(pixels), max_batch_size))]
        return grids[0] if len(grids) == 1 else torch.cat(grids)

    return encode_all


def bucket_sizes(num_images: int, max_batch_size: int) -> list[int]:
    """Return the sizes of `BUCKETS` that add up to a number of images, largest first: 13 = 8 + 4 + 1."""
    sizes: list[int] = []
    for size in BUCKETS:
        if size <= max_batch_size:
            sizes += [size] * ((num_images - sum(sizes)) // size)
    return sizes


def _warm_up_sizes(max_batch_size: int) -> list[int]:
    return [size for size in BUCKETS if size <= max_batch_size]

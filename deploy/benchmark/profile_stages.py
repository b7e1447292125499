"""Measure each stage of captioning in one process and compare it with its hardware limit.

python -m deploy.benchmark.profile_stages --images ../shared/data/coco/val2017 --beams 1 3 5 --batches 1 8 16
python -m deploy.benchmark.profile_stages --device cuda --backend compile --precision fast --batches 256 512 --beams 3
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from deploy.cli import add_bundle_arguments, read_images
from eval.cli import cli_errors
from handler.backends import BACKENDS, PRECISIONS, ModelSource
from handler.backends.engine import cpu_supports_bfloat16
from handler.bundle import load_bundle
from handler.captioner import Captioner
from handler.errors import BundleError
from handler.parallel import available_cpus, parallel_map

MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices whose product measures the peak
MAX_IMAGES = 64  # more would only repeat the measurement
Row = tuple[str, float, str]  # stage, milliseconds per image, comparison


def median_ms(run: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call in milliseconds, after one warm-up call, including its GPU work."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def peak_gflops(dtype: torch.dtype, device: torch.device) -> float:
    """Measure the peak of a device in GFLOP/s with the product of two large matrices."""
    size = MATRIX_SIZE[device.type]
    left, right = torch.rand(2, size, size, device=device).to(dtype)
    return 2 * size**3 / median_ms(partial(torch.mm, left, right), 9) / 1e6


def count_operations(module: torch.nn.Module, inputs: torch.Tensor) -> int:
    """Count the floating-point operations of a module; a multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(inputs)
    return int(counter.get_total_flops())


def libjpeg(data: bytes) -> None:
    """Decode the pixels of an image and do nothing else."""
    Image.open(BytesIO(data)).load()


def profile_stages(
    captioner: Captioner, directory: Path, images: Sequence[bytes], batches: Sequence[int], beams: Sequence[int]
) -> Iterator[Row]:
    """Measure all stages.

    Args:
        captioner: Model to measure.
        directory: Directory of its bundle.
        images: Encoded images, at least as many as the largest batch.
        batches: Batch sizes.
        beams: Beam sizes.

    Yields:
        The stage, its milliseconds per image, and a comparison with its limit.
    """
    yield from _profile_preprocessing(captioner, images)
    pixels = torch.stack(parallel_map(captioner.preprocess, images[: max(batches)]))
    yield from _profile_encoder(captioner, directory, pixels, batches)
    yield from _profile_search(captioner, pixels, batches, beams)
    subset = images[: max(batches)]
    for batch in batches:
        for beam in beams:
            options = replace(captioner.config.decoding, beam_size=beam)
            run = partial(captioner.caption, subset, options, batch_size=batch)
            elapsed = median_ms(run, 3) / len(subset)
            yield f"end to end, beam {beam}, batch {batch}", elapsed, f"{1e3 / elapsed:.1f} captions/s"


def _profile_preprocessing(captioner: Captioner, images: Sequence[bytes]) -> Iterator[Row]:
    def per_image(run: Callable[[bytes], object]) -> float:
        return median_ms(lambda: parallel_map(run, images), 5) / len(images)

    decoding, preprocessing = per_image(libjpeg), per_image(captioner.preprocess)
    yield "pixels decoded", decoding, "limit of the next stage"
    yield "decoded, upright, resized", preprocessing, f"{preprocessing / decoding:.2f} × its limit"


def _profile_encoder(
    captioner: Captioner, directory: Path, pixels: torch.Tensor, batches: Sequence[int]
) -> Iterator[Row]:
    peaks = {"fp32": peak_gflops(torch.float32, captioner.device)}
    if captioner.device.type == "cuda" or cpu_supports_bfloat16():
        peaks["bf16"] = peak_gflops(torch.bfloat16, captioner.device)
    config, weights, _ = load_bundle(directory)
    encoder = ModelSource(config, weights, captioner.device, "full").build_encoder()
    gflop = count_operations(encoder, pixels[:1].to(captioner.device)) / 1e9
    for batch in batches:
        elapsed = median_ms(partial(captioner.encode, pixels[:batch]), max(5, 40 // batch)) / batch
        rate = gflop / elapsed * 1e3
        shares = ", ".join(f"{rate / peak:.0%} of {name} {peak:.0f}" for name, peak in peaks.items())
        yield f"encoder, batch {batch}", elapsed, f"{rate:.0f} GFLOP/s: {shares}"


def _profile_search(
    captioner: Captioner, pixels: torch.Tensor, batches: Sequence[int], beams: Sequence[int]
) -> Iterator[Row]:
    grid = captioner.encode(pixels)
    for batch in batches:
        for beam in beams:
            options, repeats = [replace(captioner.config.decoding, beam_size=beam)] * batch, max(3, 20 // batch)
            elapsed = median_ms(partial(captioner.caption_features, grid[:batch], options), repeats) / batch
            yield f"search, beam {beam}, batch {batch}", elapsed, ""
            elapsed = median_ms(partial(captioner.caption_pixels, pixels[:batch], options), repeats) / batch
            yield f"from decoded images, beam {beam}, batch {batch}", elapsed, f"{1e3 / elapsed:.1f} captions/s"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.benchmark.profile_stages", description="Measure each stage of captioning in one process."
    )
    add_bundle_arguments(parser)
    parser.add_argument("--device", default="cpu", help="e.g. cuda (default: cpu)")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="full")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="PyTorch threads (default: all CPUs)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16], help="batch sizes (default: 1 8 16)")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3, 5], help="beam sizes (default: 1 3 5)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with cli_errors(BundleError):
        images = list(read_images(arguments).values())[:MAX_IMAGES]
        images *= -(-max(arguments.batches) // len(images))  # at least one batch
        captioner = Captioner.load(
            arguments.model, arguments.device, backend=arguments.backend, precision=arguments.precision
        )
    hardware = torch.cuda.get_device_name() if captioner.device.type == "cuda" else f"{arguments.threads} threads"
    print(f"{captioner.engine.backend}, {arguments.precision}, {hardware}\n")
    print("| stage | ms per image | |\n|---|---|---|")
    for stage, elapsed, comparison in profile_stages(
        captioner, arguments.model, images, arguments.batches, arguments.beams
    ):
        print(f"| {stage} | {elapsed:.3g} | {comparison} |", flush=True)


if __name__ == "__main__":
    main()

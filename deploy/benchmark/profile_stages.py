"""Where a picture's time goes in one process, each stage beside what limits it.

python -m deploy.benchmark.profile_stages --pictures ../shared/data/coco/val2017 --beams 1 3 5 --batches 1 8 16
python -m deploy.benchmark.profile_stages --device cuda --backend compile --precision fast --batches 256 512 --beams 3
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from eval.caption import find_images
from handler.backends import BACKENDS, PRECISIONS, ModelSource
from handler.backends.engine import cpu_supports_bfloat16
from handler.bundle import load_bundle
from handler.captioner import Captioner
from handler.errors import BundleError
from handler.parallel import available_cpus, parallel_map

ROOT = Path(__file__).parent.parent.parent
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product is the peak


def median_ms(run: Callable[[], object], times: int) -> float:
    """Milliseconds of a call, all that it asks of a GPU included: the median of some, after one that does not count."""
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken[1:])


def peak_gflops(precision: torch.dtype, device: torch.device) -> float:
    """Billions of operations a second in the product of two large matrices."""
    side = SIDE[device.type]
    left, right = torch.rand(2, side, side, device=device).to(precision)
    return 2 * side**3 / median_ms(partial(torch.mm, left, right), 9) / 1e6


def count_operations(module: torch.nn.Module, inputs: torch.Tensor) -> int:
    """What a module takes for its inputs; a multiplication and its addition are two operations."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(inputs)
    return counter.get_total_flops()


def libjpeg(data: bytes) -> None:
    """Decodes a picture's pixels, and does no more."""
    Image.open(BytesIO(data)).load()


def rows(
    captioner: Captioner, folder: Path, pictures: Sequence[bytes], batches: Sequence[int], beams: Sequence[int]
) -> Iterator[tuple[str, float, str]]:
    """Each stage's milliseconds a picture, with what they are beside their limit.

    Args:
        captioner: the model.
        folder: of its bundle.
        pictures: image files, as many as the largest batch or more.
        batches: pictures encoded and captioned together.
        beams: sizes.
    """
    everything = range(len(pictures))

    def each(run: Callable[[bytes], object]) -> float:
        return median_ms(lambda: parallel_map(lambda place: run(pictures[place]), everything), 5) / len(pictures)

    alone, whole = each(libjpeg), each(captioner.preprocess)
    yield "the picture's file, pixels alone", alone, "the limit of the next"
    yield "decoded, upright, resized", whole, f"{whole / alone:.2f} × it"
    peaks = {"fp32": peak_gflops(torch.float32, captioner.device)}
    if captioner.device.type == "cuda" or cpu_supports_bfloat16():
        peaks["bf16"] = peak_gflops(torch.bfloat16, captioner.device)
    config, weights, _ = load_bundle(folder)
    pixels = torch.stack(parallel_map(captioner.preprocess, pictures[: max(batches)]))
    encoder = ModelSource(config, weights, captioner.device, "full").build_encoder()
    work = count_operations(encoder, pixels[:1].to(captioner.device)) / 1e9
    for batch in batches:
        taken = median_ms(partial(captioner.encode, pixels[:batch]), max(5, 40 // batch)) / batch
        rate = work / taken * 1e3
        shares = ", ".join(f"{rate / peak:.0%} of {name} {peak:.0f}" for name, peak in peaks.items())
        yield f"encoder, batch {batch}", taken, f"{rate:.0f} GFLOP/s: {shares}"
    grid = captioner.encode(pixels)
    for batch in batches:
        for beam in beams:
            options = [replace(captioner.config.decoding, beam_size=beam)] * batch
            taken = median_ms(partial(captioner.caption_features, grid[:batch], options), max(3, 20 // batch)) / batch
            yield f"search, beam {beam}, batch {batch}", taken, ""
            taken = median_ms(partial(captioner.caption_pixels, pixels[:batch], options), max(3, 20 // batch)) / batch
            yield f"from decoded pictures, beam {beam}, batch {batch}", taken, f"{1e3 / taken:.1f} captions a second"
    for batch in batches:
        for beam in beams:
            options = replace(captioner.config.decoding, beam_size=beam)
            some = pictures[: max(batches)]
            taken = median_ms(partial(captioner.caption, some, options, batch_size=batch), 3) / len(some)
            yield f"all together, beam {beam}, batch {batch}", taken, f"{1e3 / taken:.1f} captions a second"


def main() -> None:
    parser = argparse.ArgumentParser(description="Where a picture's time goes in one process.")
    parser.add_argument("--model", type=Path, default=ROOT / "pretrained", help="the bundle's folder")
    parser.add_argument("--pictures", nargs="+", default=[str(ROOT / "samples" / "photos")], help="files or folders")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="full")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3, 5])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        pictures = [Path(path).read_bytes() for path in islice(find_images(arguments.pictures), 64)]
        pictures *= -(-max(arguments.batches) // len(pictures))
        captioner = Captioner.load(
            arguments.model, arguments.device, backend=arguments.backend, precision=arguments.precision
        )
    except (BundleError, OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(str(error))
    place = torch.cuda.get_device_name() if captioner.device.type == "cuda" else f"{arguments.threads} threads"
    print(f"{captioner.engine.backend}, {arguments.precision}, {place}\n")
    print("| stage | ms a picture | |\n|---|---|---|")
    for stage, taken, beside in rows(captioner, arguments.model, pictures, arguments.batches, arguments.beams):
        print(f"| {stage} | {taken:.3g} | {beside} |", flush=True)


if __name__ == "__main__":
    main()

"""OpenVINO backend for CPUs: the encoder as one graph.

Images are encoded one after another, each by all threads. This is as fast as any batch, takes the least memory, and
gives an image the same grid, to the bit, in any batch.

An encoder has to be converted first, which takes some seconds, timm, and twice the memory. Packing an archive converts
it and stores the result beside the bundle; without that it is converted at start.
"""

import importlib.util
import shutil
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from handler.backends.engine import EncoderBackend, ModelSource
from handler.bundle import WEIGHTS, BundleConfig

DIRECTORY = "openvino"  # of converted encoders, in the bundle's directory


def build(source: ModelSource) -> EncoderBackend:
    """Build the encoder for OpenVINO.

    Raises:
        ModuleNotFoundError: If OpenVINO is not installed.
    """
    openvino = _import_openvino()
    core = openvino.Core()
    path = converted_path(source) if source.directory else None
    model = core.read_model(path) if path and path.is_file() else convert(source)
    use_bf16 = source.precision != "full" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if use_bf16 else "f32",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # all workers of a machine would be pinned to the same cores
        },
    )
    request = compiled.create_infer_request()

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        grids = []
        for image in pixels.contiguous().numpy():
            [grid] = request.infer([image[None]], share_inputs=True).values()
            grids.append(torch.from_numpy(grid))
        return torch.cat(grids)

    # Every image runs by itself. The larger size warms up what follows the encoder.
    return EncoderBackend(encode, compiled.output(0).shape[2], lambda max_batch_size: sorted({max_batch_size, 1})[::-1])


def converted_path(source: ModelSource) -> Path:
    """Return the path of a bundle's converted encoder; its name depends on the weights, so it is never out of date.

    Raises:
        ValueError: If the source has no directory.
    """
    if source.directory is None:
        raise ValueError("The bundle has no directory.")
    return source.directory / DIRECTORY / f"{source.config.files[WEIGHTS]['sha256'][:16]}.xml"


def convert(source: ModelSource) -> Any:  # noqa: ANN401 -- openvino.Model, which is imported on use
    """Convert the encoder to an OpenVINO model for one image.

    The same bundle gives the same model, to the byte: OpenVINO's names, which count earlier conversions, are replaced.
    """
    openvino = _import_openvino()
    size = source.config.preprocessing.size
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; its replacement is slower and fixes the batch size
        model = openvino.convert_model(
            source.build_encoder(),
            example_input=torch.zeros(1, 3, size, size, dtype=torch.uint8),
            input=[openvino.PartialShape([1, 3, size, size])],
        )
    model.set_friendly_name("encoder")
    for number, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    return model


def save_converted(source: ModelSource) -> None:
    """Convert the encoder and store it where `build` finds it.

    Raises:
        ModuleNotFoundError: If OpenVINO is not installed.
    """
    path = converted_path(source)
    path.parent.mkdir(exist_ok=True)
    _import_openvino().save_model(convert(source), path, compress_to_fp16=False)


def export_openvino(config: BundleConfig, weights: dict[str, torch.Tensor], directory: Path) -> None:
    """Store the converted encoder in a bundle's directory, if OpenVINO is installed and can convert it.

    A `Captioner` of that directory then starts without timm and without a conversion.
    """
    if not importlib.util.find_spec("openvino"):
        return
    try:
        save_converted(ModelSource(config, weights, torch.device("cpu"), "full", directory))
    except Exception as error:  # a backbone that it cannot convert: workers run it with PyTorch
        print(f"OpenVINO cannot convert the encoder {config.encoder}: {error}", file=sys.stderr)
        shutil.rmtree(directory / DIRECTORY, ignore_errors=True)


def _import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which reports each import over the network."""
    if "openvino" not in sys.modules:
        # A module of None fails to import, as if the telemetry were not installed.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is allowed, not declared
    import openvino  # type: ignore[import-untyped]

    module: ModuleType = openvino
    return module

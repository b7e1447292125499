"""OpenVINO backend for CPUs: the encoder as one graph.

Images are encoded one after another, each by all threads. This is as fast as any batch, takes the least memory, and
gives an image the same grid, to the bit, in any batch.

An encoder has to be converted first, which takes some seconds, timm, and twice the memory. Packing an archive converts
it and stores the result beside the bundle; without that it is converted at start. The 8-bit encoder is offered if the
bundle holds one: it is made from images, see `deploy.quantize_encoder`.
"""

import importlib.util
import shutil
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from handler.backends.engine import EncoderBackend, ModelSource
from handler.backends.precision import build_fastest
from handler.bundle import WEIGHTS, BundleConfig

DIRECTORY = "openvino"  # of converted encoders, in the bundle's directory
INT8 = "int8"
HINTS = {"bfloat16": "bf16", "float16": "f16"}  # names of OpenVINO; all else runs in f32, or in 8 bits
CAPABILITIES = {"float16": "FP16", "bfloat16": "BF16"}


def build(source: ModelSource) -> EncoderBackend:
    """Build the encoder for OpenVINO.

    Raises:
        ModuleNotFoundError: If OpenVINO is not installed.
    """
    openvino = import_openvino()
    core = openvino.Core()

    @cache
    def float_model() -> Any:  # noqa: ANN401 -- openvino.Model, which is imported on use
        path = converted_path(source) if source.directory else None
        return core.read_model(path) if path and path.is_file() else convert(source)

    def build_in(precision: str) -> EncoderBackend:
        model = core.read_model(converted_path(source, INT8)) if precision == INT8 else float_model()
        return _compile(core, model, precision)

    return build_fastest(source, _offered_precisions(core, source), build_in, f"OpenVINO {openvino.__version__}")


def _offered_precisions(core: Any, source: ModelSource) -> list[str]:  # noqa: ANN401 -- openvino.Core
    """Return the precisions that OpenVINO can run the encoder in, the most precise first."""
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    offered = ["float32", *(name for name, capability in CAPABILITIES.items() if capability in capabilities)]
    if source.directory and converted_path(source, INT8).is_file():
        offered.append(INT8)
    return offered


def _compile(core: Any, model: Any, precision: str) -> EncoderBackend:  # noqa: ANN401 -- openvino.Core and Model
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": HINTS.get(precision, "f32"),
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
    return EncoderBackend(
        encode, compiled.output(0).shape[2], lambda max_batch_size: sorted({max_batch_size, 1})[::-1], precision
    )


def converted_path(source: ModelSource, precision: str = "") -> Path:
    """Return the path of a bundle's converted encoder; its name depends on the weights, so it is never out of date.

    Args:
        source: The bundle.
        precision: `int8` for the 8-bit encoder.

    Raises:
        ValueError: If the source has no directory.
    """
    if source.directory is None:
        raise ValueError("The bundle has no directory.")
    suffix = f"-{precision}" if precision else ""
    return source.directory / DIRECTORY / f"{source.config.files[WEIGHTS]['sha256'][:16]}{suffix}.xml"


def convert(source: ModelSource) -> Any:  # noqa: ANN401 -- openvino.Model, which is imported on use
    """Convert the encoder to an OpenVINO model for one image.

    The same bundle gives the same model, to the byte: OpenVINO's names, which count earlier conversions, are replaced.
    """
    openvino = import_openvino()
    size = source.config.preprocessing.size
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; its replacement is slower and fixes the batch size
        model = openvino.convert_model(
            source.build_encoder(),
            example_input=torch.zeros(1, 3, size, size, dtype=torch.uint8),
            input=[openvino.PartialShape([1, 3, size, size])],
        )
    number_operations(model)
    return model


def number_operations(model: Any) -> None:  # noqa: ANN401 -- openvino.Model
    """Name the operations of an OpenVINO model by their types and numbers."""
    model.set_friendly_name("encoder")
    for number, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")


def save_converted(model: Any, path: Path) -> None:  # noqa: ANN401 -- openvino.Model
    """Store a converted encoder at its `converted_path`, where `build` finds it."""
    path.parent.mkdir(exist_ok=True)
    import_openvino().save_model(model, path, compress_to_fp16=False)


def export_openvino(config: BundleConfig, weights: dict[str, torch.Tensor], directory: Path) -> None:
    """Store the converted encoder in a bundle's directory, if OpenVINO is installed and can convert it.

    A `Captioner` of that directory then starts without timm and without a conversion.
    """
    if not importlib.util.find_spec("openvino"):
        return
    try:
        source = ModelSource(config, weights, torch.device("cpu"), "full", directory)
        save_converted(convert(source), converted_path(source))
    except Exception as error:  # a backbone that it cannot convert: workers run it with PyTorch
        print(f"OpenVINO cannot convert the encoder {config.encoder}: {error}", file=sys.stderr)
        shutil.rmtree(directory / DIRECTORY, ignore_errors=True)


def copy_int8_encoder(config: BundleConfig, source: Path, target: Path) -> None:
    """Copy the 8-bit encoder of a bundle from its directory to another one, if there is one."""
    path = converted_path(ModelSource(config, {}, torch.device("cpu"), "full", source), INT8)
    if path.is_file():
        (target / DIRECTORY).mkdir(exist_ok=True)
        for file in (path, path.with_suffix(".bin")):
            shutil.copy(file, target / DIRECTORY)


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which reports each import over the network."""
    if "openvino" not in sys.modules:
        # A module of None fails to import, as if the telemetry were not installed.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is allowed, not declared
    import openvino  # type: ignore[import-untyped]

    module: ModuleType = openvino
    return module

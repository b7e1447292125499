"""OpenVINO, for CPUs: the encoder as one graph, its weights laid out for the processor.

Pictures are encoded one after another, each by all threads: that is as fast as any batch, takes the least memory, and
gives a picture the same grid, to the bit, whatever is beside it.

An encoder has to be converted first, which takes some seconds, timm and twice the memory: packing an archive does it,
and what it wrote lies beside the bundle. Where nothing lies there it is done at the start.
"""

import importlib.util
import shutil
import sys
import warnings
from pathlib import Path
from types import ModuleType

import torch

from handler.backends.engine import Encode, ModelSource
from handler.bundle import WEIGHTS, BundleConfig

FOLDER = "openvino"


def build(source: ModelSource) -> tuple[Encode, int]:
    """The encoder, and the channels of a cell.

    Raises:
        ModuleNotFoundError: OpenVINO is not installed.
    """
    openvino = _import()
    core = openvino.Core()
    path = source.folder and converted(source)
    model = core.read_model(path) if path and path.is_file() else convert(source)
    halved = source.precision != "full" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if halved else "f32",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # the workers of a machine would all be pinned to the same cores
        },
    )
    request = compiled.create_infer_request()

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        grids = []
        for picture in pixels.contiguous().numpy():
            [grid] = request.infer([picture[None]], share_inputs=True).values()
            grids.append(torch.from_numpy(grid))
        return torch.cat(grids)

    return encode, compiled.output(0).shape[2]


def converted(source: ModelSource) -> Path:
    """Where a bundle's converted encoder lies, if it does; named by its weights, so that it is never a stale one."""
    return source.folder / FOLDER / f"{source.config.files[WEIGHTS]['sha256'][:16]}.xml"


def convert(source: ModelSource):
    """The encoder as OpenVINO's model, of one picture.

    The same bundle gives the same model, to the byte: names that count what was made before are replaced.
    """
    openvino = _import()
    size = source.config.preprocessing.size
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is old; what replaces it is slower and takes one size alone
        model = openvino.convert_model(
            source.encoder(),
            example_input=torch.zeros(1, 3, size, size, dtype=torch.uint8),
            input=[openvino.PartialShape([1, 3, size, size])],
        )
    model.set_friendly_name("encoder")
    for number, operation in enumerate(model.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    return model


def save_converted(source: ModelSource) -> None:
    """Converts the encoder and puts it where `build` finds it.

    Raises:
        ModuleNotFoundError: OpenVINO is not installed.
    """
    path = converted(source)
    path.parent.mkdir(exist_ok=True)
    _import().save_model(convert(source), path, compress_to_fp16=False)


def export_openvino(config: BundleConfig, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Puts a bundle's encoder into a folder as OpenVINO takes it, where that is installed and takes it.

    A `Captioner` of that folder then starts without timm and without converting.
    """
    if not importlib.util.find_spec("openvino"):
        return
    try:
        save_converted(ModelSource(config, weights, torch.device("cpu"), "full", folder))
    except Exception as error:  # of a backbone that it can't convert: workers will run it with PyTorch
        print(f"OpenVINO does not take the encoder {config.encoder}: {error}", file=sys.stderr)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _import() -> ModuleType:
    """OpenVINO without its telemetry, which tells the world of each import."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # as if that were not installed
    import openvino

    return openvino

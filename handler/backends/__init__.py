"""How a bundle's arithmetic runs: an encoder's back end, one a file, and what the search runs on.

Precision `full` is single precision everywhere: the reference. `fast` is an encoder in bfloat16 on a CPU that has
instructions for it; a picture's caption does not depend on what is beside it. `fastest` is a decoder in bfloat16 as
well, or in integers where the processor has no such instructions; then it can depend on the beams beside it. On a GPU
both are float16 throughout. What each costs in CIDEr is in docs/performance.md.
"""

import importlib.util
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from handler.backends.bf16 import Bf16Linear, can_halve
from handler.backends.engine import Encode, ModelSource, autocast, cpu_supports_bfloat16, half
from handler.backends.fp16 import halve_weights
from handler.backends.int8 import Int8Linear, can_quantize
from handler.backends.quantize import Rounded, quantize_decoder
from handler.modeling import Decoder, build_decoder

logger = logging.getLogger(__name__)

PRECISIONS = ("full", "fast", "fastest")


def _eager(source: ModelSource) -> tuple[Encode, int]:
    from handler.backends.pytorch import build

    return build(source)


def _compile(source: ModelSource) -> tuple[Encode, int]:
    from handler.backends.compile import build

    return build(source)


def _openvino(source: ModelSource) -> tuple[Encode, int]:
    from handler.backends.openvino import build

    return build(source)


# Each is imported where it is asked for: they take seconds, and hundreds of megabytes.
BACKENDS: dict[str, Callable[[ModelSource], tuple[Encode, int]]] = {
    "eager": _eager,
    "compile": _compile,
    "openvino": _openvino,
}


@dataclass(frozen=True)
class Engine:
    """A bundle's model, ready to run.

    Attributes:
        backend: the encoder's.
        encode: uint8 pixels (B, 3, size, size) on any device → grid (B, cells, C) on the model's.
        decoder: in single precision; it gives gradients.
        searcher: the decoder that the search runs: the same, or a faster one.
        computing: a context for the search.
    """

    backend: str
    encode: Encode
    decoder: Decoder
    searcher: Decoder
    computing: Callable[[], AbstractContextManager]


def validate_backend(backend: str, precision: str) -> None:
    """Whether there are such a back end and precision.

    Raises:
        ValueError: there are not; the message names those there are.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend is one of auto, {', '.join(BACKENDS)}, not '{backend}'.")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not '{precision}'.")


def _automatic(source: ModelSource) -> tuple[str, tuple[Encode, int]]:
    """The name of the fastest back end that takes the encoder, and what it gives."""
    if source.device.type == "cpu" and importlib.util.find_spec("openvino"):
        try:
            return "openvino", _openvino(source)
        except Exception:  # of a backbone that it can't convert; what is wrong with the bundle shows again below
            logger.warning("OpenVINO does not take this encoder; PyTorch runs it.", exc_info=True)
    return "eager", _eager(source)


def rounding(source: ModelSource) -> Rounded | None:
    """How the decoder's matrices are rounded for the search; None: not at all."""
    if source.precision != "fastest" or source.device.type != "cpu":
        return None
    if cpu_supports_bfloat16() and can_halve():
        return Bf16Linear
    return Int8Linear if can_quantize() else None


def build_engine(source: ModelSource, vocabulary_size: int, backend: str) -> Engine:
    """Brings a bundle to a device.

    Args:
        source: the bundle's parts, and where and how they are to run.
        vocabulary_size: tokens.
        backend: `eager`, `compile`, `openvino`, or `auto`: OpenVINO on a CPU where it is installed, else eager.

    Raises:
        ValueError: the weights do not fit the configuration.
        RuntimeError: the weights do not fit the configuration.
        ModuleNotFoundError: the back end is not installed.
    """
    if backend == "auto":
        backend, (encode, channels) = _automatic(source)
    else:
        encode, channels = BACKENDS[backend](source)
    decoder = build_decoder(source.config.decoder, vocabulary_size, channels)
    decoder.load_state_dict(source.part("decoder"))
    decoder.eval().requires_grad_(False).to(source.device)
    if source.device.type == "cuda":
        searcher = halve_weights(decoder) if half(source) else decoder
        return Engine(backend, encode, decoder, searcher, partial(autocast, source))
    linear = rounding(source)
    return Engine(backend, encode, decoder, quantize_decoder(decoder, linear) if linear else decoder, nullcontext)


__all__ = ["BACKENDS", "PRECISIONS", "Encode", "Engine", "ModelSource", "build_engine", "validate_backend"]

"""How a bundle's arithmetic runs: an encoder's back end, one a file, and what the search runs on.

Precision `full` is single precision everywhere: the reference. `fast` is what the device is best at: on a GPU bfloat16;
on a CPU integers in the decoder, which give the same to the bit in any batch, and bfloat16 in the encoder where the
processor has instructions for it.
"""

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from handler.backends.base import Encode, Source, autocast
from handler.backends.int8 import can_quantize, quantize
from handler.decoders import Decoder, build_decoder

PRECISIONS = ("fast", "full")


def _eager(source: Source) -> tuple[Encode, int]:
    from handler.backends.eager import build

    return build(source)


def _compile(source: Source) -> tuple[Encode, int]:
    from handler.backends.compile import build

    return build(source)


def _openvino(source: Source) -> tuple[Encode, int]:
    from handler.backends.openvino import build

    return build(source)


# Each is imported where it is asked for: they take seconds, and hundreds of megabytes.
BACKENDS: dict[str, Callable[[Source], tuple[Encode, int]]] = {
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
        computing: a context for both.
    """

    backend: str
    encode: Encode
    decoder: Decoder
    searcher: Decoder
    computing: Callable[[], AbstractContextManager]


def check_choice(backend: str, precision: str) -> None:
    """Whether there are such a back end and precision.

    Raises:
        ValueError: there are not; the message names those there are.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend is one of auto, {', '.join(BACKENDS)}, not '{backend}'.")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not '{precision}'.")


def build_engine(source: Source, vocabulary_size: int, backend: str) -> Engine:
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
        can = source.device.type == "cpu" and importlib.util.find_spec("openvino")
        backend = "openvino" if can else "eager"
    encode, channels = BACKENDS[backend](source)
    decoder = build_decoder(source.config.decoder, vocabulary_size, channels)
    decoder.load_state_dict(source.part("decoder"))
    decoder.eval().requires_grad_(False).to(source.device)
    integers = source.fast and source.device.type == "cpu" and can_quantize()
    return Engine(backend, encode, decoder, quantize(decoder) if integers else decoder, autocast(source))


__all__ = ["BACKENDS", "PRECISIONS", "Encode", "Engine", "Source", "build_engine", "check_choice"]

"""A bundle's model, ready to run on a device with a backend and a precision.

Precision `full` is float32 everywhere: the reference. `fast` runs the encoder in the precision that measured fastest,
see `handler.backends.precision`; the caption of an image does not depend on its batch. `bfloat16`, `float16` and `int8`
name the encoder's precision. `fastest` is `fast` and also quantizes the decoder, to bfloat16 or, on CPUs without
instructions for it, to int8; a caption can then depend on the beams beside it. On a GPU both are float16 throughout.
docs/performance.md has the cost of each in CIDEr.
"""

import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from handler.backends.quantize import (
    Bf16Linear,
    Int8Linear,
    LinearFactory,
    quantize_decoder,
    supports_bf16_linear,
    supports_int8_linear,
    to_half,
)
from handler.bundle import BundleConfig
from handler.generation import GenerationConfig, Hypothesis, generate
from handler.generation.beam_search import TokenCallback
from handler.modeling import Decoder, build_decoder
from handler.modeling.vocabulary import Vocabulary

if TYPE_CHECKING:  # timm takes seconds to import, and not every backend needs it
    from handler.modeling.encoder import NormalizedEncoder

logger = logging.getLogger(__name__)

# Module and function of each backend. Each is imported on use: that takes seconds, and hundreds of megabytes.
BACKENDS = {
    "eager": ("handler.backends.pytorch", "build_eager"),
    "compile": ("handler.backends.pytorch", "build_compiled"),
    "openvino": ("handler.backends.openvino", "build"),
}
PRECISIONS = ("full", "fast", "fastest", "bfloat16", "float16", "int8")
EncodeFn = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ModelSource:
    """A bundle's parts, and how to run them.

    Attributes:
        config: Configuration of the bundle.
        weights: Tensors named `encoder.…` and `decoder.…`.
        device: Device to run on.
        precision: One of `PRECISIONS`.
        directory: Directory of the bundle, which may hold a converted encoder; None if unknown.
    """

    config: BundleConfig
    weights: dict[str, torch.Tensor]
    device: torch.device
    precision: str
    directory: Path | None = None

    @property
    def encoder_precision(self) -> str | None:
        """Precision of the encoder; None for the fastest one that is offered.

        A GPU gets float16: bfloat16 is no faster there, and is eight times less precise.
        """
        if self.precision == "full":
            return "float32"
        if self.precision in ("fast", "fastest"):
            return "float16" if self.device.type == "cuda" else None
        return self.precision

    def state_dict(self, part: str) -> dict[str, torch.Tensor]:
        """Return the weights of `encoder` or `decoder`, without that prefix."""
        prefix = f"{part}."
        return {key.removeprefix(prefix): value for key, value in self.weights.items() if key.startswith(prefix)}

    def build_encoder(self) -> "NormalizedEncoder":
        """Build the encoder with its normalization, in evaluation mode and float32.

        Raises:
            ValueError: If timm has no such backbone.
            RuntimeError: If the weights do not fit it.
        """
        from handler.modeling.encoder import Encoder, NormalizedEncoder

        encoder = Encoder(self.config.encoder)
        encoder.load_state_dict(self.state_dict("encoder"))
        normalized = NormalizedEncoder(encoder, self.config.preprocessing)
        return normalized.eval().requires_grad_(False).to(self.device)


@dataclass(frozen=True)
class EncoderBackend:
    """An encoder ready to run.

    Attributes:
        encode: uint8 pixels (B, 3, size, size) on any device → float32 grid (B, cells, C) on the model's device.
        channels: C.
        warm_up_sizes: Largest batch size → the batch sizes to run once before serving, the last one 1.
        precision: Type that it computes in: `float32`, `bfloat16`, `float16` or `int8`.
        milliseconds: Time of an image in each precision that was measured; empty if there was no choice.
    """

    encode: EncodeFn
    channels: int
    warm_up_sizes: Callable[[int], list[int]]
    precision: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """A bundle's model, ready to run.

    Attributes:
        backend: Name of the encoder's backend.
        encoder: The encoder.
        decoder: The decoder in float32, which can compute gradients.
        generation_decoder: The decoder for generation: the same, or a faster one.
        vocabulary: The vocabulary of the decoder.
        autocast_context: Returns the context in which the decoder generates.
    """

    backend: str
    encoder: EncoderBackend
    decoder: Decoder
    generation_decoder: Decoder
    vocabulary: Vocabulary
    autocast_context: Callable[[], AbstractContextManager[object]]

    @property
    def summary(self) -> dict[str, object]:
        """What runs the model, for people: backend, precision of the encoder, and the times that decided it."""
        return {
            "backend": self.backend,
            "encoder_precision": self.encoder.precision,
            "measured_ms_per_image": dict(self.encoder.milliseconds),
        }

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode uint8 pixels (B, 3, size, size) to a grid (B, cells, C)."""
        return self.encoder.encode(pixels)

    def generate(
        self,
        grid: torch.Tensor,
        configs: Sequence[GenerationConfig],
        on_tokens: Mapping[int, TokenCallback] | None = None,
    ) -> list[list[Hypothesis]]:
        """Generate captions of a grid (B, cells, C); see `handler.generation.generate`."""
        with self.autocast_context():
            return generate(self.generation_decoder, grid, configs, self.vocabulary, on_tokens)


def validate_backend(backend: str, precision: str) -> None:
    """Check the names of a backend and a precision.

    Raises:
        ValueError: If one is unknown; the message names the valid ones.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, not '{backend}'.")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not '{precision}'.")


def build_engine(source: ModelSource, vocabulary: Vocabulary, backend: str) -> Engine:
    """Bring a bundle's model to a device.

    Args:
        source: The bundle's parts, and how to run them.
        vocabulary: The bundle's vocabulary.
        backend: `eager`, `compile`, `openvino` or `auto`: OpenVINO on a CPU if it is installed, else eager.

    Raises:
        ValueError: If the weights do not fit the configuration.
        RuntimeError: If the weights do not fit the configuration.
        ModuleNotFoundError: If the backend is not installed.
    """
    if backend == "auto":
        backend, encoder = _select_backend(source)
    else:
        encoder = _build_encoder_backend(source, backend)
    decoder = build_decoder(source.config.decoder, len(vocabulary), encoder.channels)
    decoder.load_state_dict(source.state_dict("decoder"))
    decoder.eval().requires_grad_(False).to(source.device)
    if source.device.type == "cuda":
        if source.precision == "full":
            return Engine(backend, encoder, decoder, decoder, vocabulary, nullcontext)
        context = partial(torch.autocast, source.device.type, torch.float16)
        return Engine(backend, encoder, decoder, to_half(decoder), vocabulary, context)
    linear = decoder_quantization(source)
    generation_decoder = quantize_decoder(decoder, linear) if linear else decoder
    return Engine(backend, encoder, decoder, generation_decoder, vocabulary, nullcontext)


def _build_encoder_backend(source: ModelSource, backend: str) -> EncoderBackend:
    module, function = BACKENDS[backend]
    built: EncoderBackend = getattr(importlib.import_module(module), function)(source)
    return built


def _select_backend(source: ModelSource) -> tuple[str, EncoderBackend]:
    """Return the fastest backend that can run the encoder."""
    if source.device.type == "cpu" and importlib.util.find_spec("openvino"):
        try:
            return "openvino", _build_encoder_backend(source, "openvino")
        except Exception:  # a backbone that it cannot convert; a defect of the bundle shows up again below
            logger.warning("OpenVINO cannot run this encoder; PyTorch runs it.", exc_info=True)
    return "eager", _build_encoder_backend(source, "eager")


def decoder_quantization(source: ModelSource) -> LinearFactory | None:
    """Return the layer that replaces the decoder's linear layers for generation on a CPU; None for no quantization."""
    if source.precision != "fastest" or source.device.type != "cpu":
        return None
    if cpu_supports_bfloat16() and supports_bf16_linear():
        return Bf16Linear
    return Int8Linear if supports_int8_linear() else None


def cpu_supports_bfloat16() -> bool:
    """Return True if this CPU multiplies bfloat16 matrices; emulating that is slower than float32."""
    # PyTorch has no public query for these instruction sets.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()

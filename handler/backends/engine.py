"""What every back end is given, and gives."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from handler.bundle import BundleConfig

Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ModelSource:
    """A bundle's parts, and where and how they are to run.

    Attributes:
        config: the bundle's.
        weights: `encoder.…` and `decoder.…`.
        device: where it runs.
        precision: `full`, `fast` or `fastest`.
        folder: the bundle's, where there may be an encoder that was converted before.
    """

    config: BundleConfig
    weights: dict[str, torch.Tensor]
    device: torch.device
    precision: str
    folder: Path | None = None

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """The weights of `encoder` or `decoder`, under their own names."""
        return {
            key.removeprefix(f"{name}."): value for key, value in self.weights.items() if key.startswith(f"{name}.")
        }

    def encoder(self) -> torch.nn.Module:
        """The encoder with its normalisation, `NormalizedEncoder`, in evaluation mode and single precision.

        Raises:
            ValueError: timm has no such backbone.
            RuntimeError: the weights do not fit it.
        """
        from handler.modeling.encoder import (  # timm takes seconds, and not all back ends need it
            Encoder,
            NormalizedEncoder,
        )

        encoder = Encoder(self.config.encoder)
        encoder.load_state_dict(self.part("encoder"))
        return NormalizedEncoder(encoder, self.config.preprocessing).eval().requires_grad_(False).to(self.device)


def half(source: ModelSource) -> torch.dtype | None:
    """The half precision that an encoder is to have; None for single precision.

    A GPU has float16: bfloat16 is no faster there, and has an eighth of its exactness.
    """
    if source.precision == "full":
        return None
    if source.device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if cpu_supports_bfloat16() else None


def cpu_supports_bfloat16() -> bool:
    """Whether this processor multiplies matrices in bfloat16; where that is imitated, single precision is faster."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(source: ModelSource) -> AbstractContextManager:
    """The context in which PyTorch computes in that precision."""
    return torch.autocast(source.device.type, half(source)) if half(source) else nullcontext()

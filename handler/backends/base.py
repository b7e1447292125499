"""What every back end is given, and gives."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from handler.bundle import BundleConfig

Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Source:
    """A bundle's parts, and where and how they are to run.

    Attributes:
        config: the bundle's.
        weights: `encoder.…` and `decoder.…`.
        device: where it runs.
        precision: `fast` or `full`.
        folder: the bundle's, where there may be an encoder that was converted before.
    """

    config: BundleConfig
    weights: dict[str, torch.Tensor]
    device: torch.device
    precision: str
    folder: Path | None = None

    @property
    def fast(self) -> bool:
        return self.precision == "fast"

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """The weights of `encoder` or `decoder`, under their own names."""
        return {
            key.removeprefix(f"{name}."): value for key, value in self.weights.items() if key.startswith(f"{name}.")
        }

    def encoder(self) -> torch.nn.Module:
        """The encoder with its normalisation, `PixelEncoder`, in evaluation mode and single precision.

        Raises:
            ValueError: timm has no such backbone.
            RuntimeError: the weights do not fit it.
        """
        from handler.encoder import Encoder, PixelEncoder  # timm takes seconds, and not all back ends need it

        encoder = Encoder(self.config.encoder)
        encoder.load_state_dict(self.part("encoder"))
        return PixelEncoder(encoder, self.config.preprocessing).eval().requires_grad_(False).to(self.device)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16, so that it is faster than single precision."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def autocast(source: Source) -> Callable[[], AbstractContextManager]:
    """The context in which a GPU computes in bfloat16, where that is wanted."""
    if source.fast and source.device.type == "cuda" and has_bfloat16(source.device):
        return partial(torch.autocast, "cuda", torch.bfloat16)
    return nullcontext

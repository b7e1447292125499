"""Encoder and decoders: pixels → feature grid → token logits. One decoder architecture per file."""

import dataclasses
from collections.abc import Callable
from typing import Any

from handler.modeling.decoder import Decoder, DecoderConfig, StepFeatures, StepOutput, TeacherForcingOutput
from handler.modeling.hard_attention import HardAttention, HardAttentionConfig
from handler.modeling.nic import NIC, NICConfig
from handler.modeling.soft_attention import SoftAttention, SoftAttentionConfig
from handler.modeling.top_down import TopDown, TopDownConfig
from handler.modeling.transformer import Transformer, TransformerConfig

DECODERS: dict[str, type[Decoder]] = {
    "nic": NIC,
    "soft_attention": SoftAttention,
    "hard_attention": HardAttention,
    "top_down": TopDown,
    "transformer": Transformer,
}


def decoder_config(name: str = "", **sizes: Any) -> DecoderConfig:  # noqa: ANN401, their types depend on the decoder
    """Build the config of the decoder called `name`.

    Args:
        name: Architecture, a key of `DECODERS`.
        sizes: Fields of its config class; those left out keep their defaults.

    Raises:
        ValueError: If the decoder or a field is unknown, or a value is out of range.
    """
    if name not in DECODERS:
        raise ValueError(f"Unknown decoder '{name}'. Valid decoders: {', '.join(DECODERS)}.")
    config_class = DECODERS[name].config_class
    valid = [field.name for field in dataclasses.fields(config_class) if field.init]
    unknown = [size for size in sizes if size not in valid]
    if unknown:
        raise ValueError(f"The decoder '{name}' has no field '{unknown[0]}'. Valid fields: {', '.join(valid)}.")
    return config_class(**sizes)


def build_decoder(config: DecoderConfig, vocabulary_size: int, channels: int) -> Decoder:
    """Build the decoder of a config with freshly initialized weights.

    Args:
        config: Config of one of the architectures in `DECODERS`.
        vocabulary_size: Number of tokens, special ones included.
        channels: Channels of a grid cell.
    """
    architecture: Callable[[DecoderConfig, int, int], Decoder] = DECODERS[config.name]
    return architecture(config, vocabulary_size, channels)


__all__ = [
    "DECODERS",
    "Decoder",
    "DecoderConfig",
    "HardAttentionConfig",
    "NICConfig",
    "SoftAttentionConfig",
    "StepFeatures",
    "StepOutput",
    "TeacherForcingOutput",
    "TopDownConfig",
    "TransformerConfig",
    "build_decoder",
    "decoder_config",
]

"""Decoders: the feature grid → words. One interface (`base.py`), one architecture a file."""

from handler.modeling.decoder import Decoder, DecoderConfig, StepOutput, TeacherForcingOutput
from handler.modeling.hard_attention import HardAttention
from handler.modeling.nic import NIC
from handler.modeling.soft_attention import SoftAttention
from handler.modeling.top_down import TopDown
from handler.modeling.transformer import Transformer

DECODERS: dict[str, type[Decoder]] = {
    "nic": NIC,
    "soft_attention": SoftAttention,
    "hard_attention": HardAttention,
    "top_down": TopDown,
    "transformer": Transformer,
}


def build_decoder(config: DecoderConfig, vocabulary_size: int, channels: int) -> Decoder:
    """The decoder that `config.name` names, freshly initialised.

    Args:
        config: architecture and sizes.
        vocabulary_size: tokens, special ones included.
        channels: of a cell of the encoder's grid.

    Raises:
        ValueError: there is no decoder of that name.
    """
    if config.name not in DECODERS:
        raise ValueError(f"There is no decoder '{config.name}': choose one of {', '.join(DECODERS)}.")
    return DECODERS[config.name](config, vocabulary_size, channels)


__all__ = ["DECODERS", "Decoder", "DecoderConfig", "StepOutput", "TeacherForcingOutput", "build_decoder"]

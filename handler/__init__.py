"""captioner: a picture in, a sentence out. `Captioner.load("pretrained").caption(["photo.jpg"])`."""

from handler.captioner import Caption, Captioner
from handler.errors import BundleError, RequestError
from handler.generation import GenerationConfig

__all__ = ["BundleError", "Caption", "Captioner", "GenerationConfig", "RequestError"]

"""captioner: image captioning. `Captioner.load("pretrained").caption(["photo.jpg"])[0][0].text` is a sentence."""

from handler.captioner import Caption, Captioner
from handler.errors import BundleError, RequestError
from handler.generation import GenerationConfig

__all__ = ["BundleError", "Caption", "Captioner", "GenerationConfig", "RequestError"]

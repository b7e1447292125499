"""Steps of an image through the endpoint: requested, opened, decoded, captioned."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image

from handler.captioner import Caption
from handler.errors import InternalError, RequestError
from handler.oom import to_request_error
from handler.serving.cache import CacheKey
from handler.serving.messages import ImageRequest
from handler.serving.streaming import TokenStream

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedImage:
    """An image whose header was read.

    Attributes:
        request: Its request.
        image: Not decoded yet.
        size: Width and height in pixels, before EXIF orientation is applied.
    """

    request: ImageRequest
    image: Image.Image
    size: tuple[int, int]

    @property
    def num_pixels(self) -> int:
        """Pixels that decoding may take."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class DecodedImage:
    """An image as the encoder takes it.

    Attributes:
        request: Its request.
        pixels: (3, size, size), uint8.
        size: Width and height of the upright image in pixels.
        thumbnail: Small upright copy to draw explanations on; None if no explanation is requested.
    """

    request: ImageRequest
    pixels: torch.Tensor
    size: tuple[int, int]
    thumbnail: Image.Image | None = None


@dataclass(frozen=True)
class ImageResult:
    """An image with its captions.

    Attributes:
        request: Its request.
        captions: Best caption first, at least one.
        cached: True if they come from the cache.
        size: Width and height of the upright image in pixels; None if cached.
        thumbnail: See `DecodedImage`.
    """

    request: ImageRequest
    captions: list[Caption]
    cached: bool = False
    size: tuple[int, int] | None = None
    thumbnail: Image.Image | None = None


ImageStep = ImageRequest | OpenedImage | DecodedImage | ImageResult | RequestError


@dataclass
class ImageTask:
    """The place of an image in its request.

    Attributes:
        step: Last step that the image reached. An error is final and stands in the place of the image.
        cache_key: Key to store the captions with; None if they must not be cached.
        stream: Sends the tokens of its best caption; None if they are not streamed.
        decode_seconds: Time spent on opening and decoding.
    """

    step: ImageStep
    cache_key: CacheKey | None = None
    stream: TokenStream | None = None
    decode_seconds: float = 0.0

    @property
    def result(self) -> ImageResult | RequestError:
        """Captions or error of the image after the last step."""
        if isinstance(self.step, ImageResult | RequestError):
            return self.step
        return InternalError("The image was not captioned: this is a fault of the server.")

    def advance(self, run_step: Callable[[], ImageStep], action: str) -> None:
        """Run a step. An error becomes the state of this image and reaches no other.

        Args:
            run_step: Returns the next state.
            action: What failed if it raises, as a sentence without its full stop.
        """
        start = time.perf_counter()
        try:
            self.step = run_step()
        except RequestError as error:
            self.step = type(error)(str(error))  # a traceback would keep what was decoded in memory
        except Exception as error:
            logger.exception("%s.", action)
            self.step = to_request_error(error, action)
        self.decode_seconds += time.perf_counter() - start

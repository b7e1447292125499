"""Prepare images for the encoder: open them within the limits, then decode them in parallel."""

import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from threading import Lock

from handler.errors import OutOfMemory, TooManyPixels
from handler.image import is_transposed, open_image, to_upright_rgb
from handler.parallel import parallel_map
from handler.preprocessing import Preprocessing
from handler.serving.image_task import DecodedImage, ImageTask, OpenedImage
from handler.serving.messages import ImageRequest

FIGURE_MAX_SIDE = 480  # pixels, of the image that explanations are drawn on
LARGE_IMAGE_PIXELS = 4_000_000  # larger images are decoded one at a time: 50 megapixels take 350 MB
FAILED = "The image could not be prepared"


class ImagePreparer:
    """Opens and decodes images.

    Args:
        preprocessing: Resizes images for the encoder.
        max_pixels: Most pixels of the images of a request together.
    """

    def __init__(self, preprocessing: Preprocessing, max_pixels: int) -> None:
        self.preprocessing, self.max_pixels = preprocessing, max_pixels
        self._large_image_lock = Lock()

    def open_all(self, tasks: Sequence[ImageTask]) -> None:
        """Open the images of a request. Those beyond its pixel limit fail."""
        num_pixels = 0
        for task in tasks:
            if isinstance(request := task.step, ImageRequest):
                task.advance(partial(self._open, request), FAILED)
            if isinstance(opened := task.step, OpenedImage):
                num_pixels += opened.num_pixels
                if num_pixels > self.max_pixels:
                    task.step = TooManyPixels(
                        f"The images of the request have more than {self.max_pixels} pixels together, the limit. "
                        "Send several requests or smaller images."
                    )

    def decode_all(self, tasks: Sequence[ImageTask]) -> None:
        """Decode all images that are opened, in parallel. Those that run out of memory are retried alone."""
        opened = [(task, task.step.request) for task in tasks if isinstance(task.step, OpenedImage)]
        parallel_map(self._decode_task, [task for task, _ in opened])
        for task, request in opened:
            if isinstance(task.step, OutOfMemory):
                task.advance(partial(self._open, request), FAILED)  # anew: the first try's pixels are let go
                self._decode_task(task)

    def _open(self, request: ImageRequest) -> OpenedImage:
        if request.options.do_sample and request.options.seed is None:
            request = request._replace(options=replace(request.options, seed=secrets.randbelow(2**32)))
        image = open_image(request.image, self.max_pixels)
        return OpenedImage(request, image, image.size)

    def _decode_task(self, task: ImageTask) -> None:
        opened = task.step
        if isinstance(opened, OpenedImage):
            lock = self._large_image_lock if opened.num_pixels > LARGE_IMAGE_PIXELS else nullcontext()
            with lock:
                task.advance(partial(self._decode, opened), FAILED)

    def _decode(self, opened: OpenedImage) -> DecodedImage:
        # Explanations get the pixels that the encoder gets.
        image = to_upright_rgb(opened.image, self.preprocessing.min_decode_side)
        size = opened.size[::-1] if is_transposed(opened.image) else opened.size
        pixels = self.preprocessing.resize(image)
        if opened.request.explain:
            image.thumbnail((FIGURE_MAX_SIDE, FIGURE_MAX_SIDE))
            return DecodedImage(opened.request, pixels, size, image)
        return DecodedImage(opened.request, pixels, size)

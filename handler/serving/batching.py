"""Caption images in batches. A batch that fails is retried in halves, down to the images that fail alone."""

import logging
import time
from collections.abc import Sequence
from functools import partial

import torch

from handler.captioner import Captioner
from handler.errors import RequestError
from handler.oom import retry_in_halves, to_request_error
from handler.serving.cache import ResultCache
from handler.serving.image_task import DecodedImage, ImageResult, ImageTask
from handler.serving.stats import BatchStats

logger = logging.getLogger(__name__)


class BatchCaptioner:
    """Captions decoded images together, each with its own options.

    Args:
        captioner: The model.
        cache: Receives the captions.
        max_batch_size: Most images together.
    """

    def __init__(self, captioner: Captioner, cache: ResultCache, max_batch_size: int) -> None:
        self.captioner, self.cache, self.max_batch_size = captioner, cache, max_batch_size

    def caption_all(self, tasks: Sequence[ImageTask], stats: BatchStats) -> None:
        """Caption all images that are decoded. An image that fails alone gets the error."""
        decoded = [task for task in tasks if isinstance(task.step, DecodedImage)]
        for first in range(0, len(decoded), self.max_batch_size):
            batch = decoded[first : first + self.max_batch_size]
            for task, error in retry_in_halves(batch, partial(self._try_caption, stats=stats)):
                task.step = error

    def _try_caption(self, tasks: Sequence[ImageTask], stats: BatchStats) -> RequestError | None:
        """Caption images together. If that fails, everything it held in memory is released on return."""
        images = [task.step for task in tasks if isinstance(task.step, DecodedImage)]
        try:
            start = time.perf_counter()
            features = self.captioner.encode(torch.stack([image.pixels for image in images]))
            encoded = time.perf_counter()
            on_tokens = {index: task.stream.update for index, task in enumerate(tasks) if task.stream}
            options = [image.request.options for image in images]
            captions = self.captioner.caption_features(features, options, on_tokens)
            if not all(captions):
                raise RuntimeError("An image got no caption.")
            for index, image in enumerate(images):
                explain = image.request.explain
                if explain and explain.method == "gradient":
                    captions[index] = [
                        self.captioner.with_gradient_attributions(caption, features[index])
                        for caption in captions[index]
                    ]
        except Exception as error:  # usually out of memory
            logger.exception("%d images could not be captioned together.", len(tasks))
            return to_request_error(error, "The image could not be captioned")
        stats.batch_sizes.append(len(tasks))
        stats.encode_seconds.append(encoded - start)
        stats.search_seconds.append(time.perf_counter() - encoded)
        for task, image, image_captions in zip(tasks, images, captions, strict=True):
            task.step = ImageResult(image.request, image_captions, size=image.size, thumbnail=image.thumbnail)
            if task.cache_key:
                self.cache.put(task.cache_key, image_captions)
        return None

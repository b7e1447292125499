"""Framework-independent request handling. One failing request never affects the others in its batch."""

import json
import logging
import time
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass

from handler.captioner import Captioner
from handler.errors import RequestError
from handler.oom import to_request_error
from handler.serving import open_inference, responses
from handler.serving.batching import BatchCaptioner
from handler.serving.cache import ResultCache
from handler.serving.demo import render_page
from handler.serving.image_parsing import ParseContext
from handler.serving.image_task import ImageResult, ImageTask
from handler.serving.messages import (
    EVENT_STREAM,
    HTML,
    JSON,
    PNG,
    ImageRequest,
    InferenceRequest,
    RawRequest,
    Response,
    SingleImageRequest,
)
from handler.serving.open_inference import OpenInferenceRequest
from handler.serving.openapi import openapi
from handler.serving.parsing import parse_request
from handler.serving.preparation import ImagePreparer
from handler.serving.responses import Prediction
from handler.serving.settings import DEFAULT_SETTINGS, Settings
from handler.serving.stats import BatchStats, RequestStats
from handler.serving.streaming import TokenStream, format_chunk

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferenceTask:
    """An inference request and the tasks of its images.

    Attributes:
        raw: The request from TorchServe.
        request: The parsed request.
        images: One task per image.
    """

    raw: RawRequest
    request: InferenceRequest
    images: Sequence[ImageTask]

    @property
    def stream(self) -> TokenStream | None:
        """Token stream of the response; None if it is sent at once."""
        return self.images[0].stream


class Endpoint:
    """Handles batches of requests.

    Args:
        captioner: The model.
        model: Name, version and digest of the model, for responses.
        settings: Limits and switches.
    """

    def __init__(self, captioner: Captioner, model: dict[str, str], settings: Settings = DEFAULT_SETTINGS) -> None:
        config = captioner.config
        self.captioner, self.model, self.settings, self.card = captioner, model, settings, config.card
        self.context = ParseContext(config.decoding, settings, captioner.explanation_methods)
        self.cache = ResultCache(settings.cache_entries)
        self.preparer = ImagePreparer(config.preprocessing, settings.max_pixels)
        self.batch_captioner = BatchCaptioner(captioner, self.cache, settings.max_batch_size)
        self.page = render_page(model, config.card, config.decoding, settings.max_bytes)

    def handle_batch(self, raw_requests: Sequence[RawRequest]) -> tuple[list[Response], BatchStats]:
        """Respond to each request of a batch: with captions, with its error, or with a document.

        Returns:
            One response per request, and the numbers for metrics and the log.
        """
        start, stats = time.perf_counter(), BatchStats()
        parsed = [self._parse(raw) for raw in raw_requests]
        tasks = [task for task in parsed if isinstance(task, InferenceTask)]
        images = [image for task in tasks for image in task.images]
        self._look_up(images, stats)
        for task in tasks:
            self.preparer.open_all(task.images)
            self._start_stream(task)
        self.preparer.decode_all(images)
        self.batch_captioner.caption_all(images, stats)
        result = [task if isinstance(task, Response) else self._respond(task, stats) for task in parsed]
        stats.seconds = time.perf_counter() - start
        return result, stats

    def _parse(self, raw: RawRequest) -> Response | InferenceTask:
        """Parse an inference request. Requests for a document get their response at once."""
        if document := self._document(raw):
            return document
        try:
            content_type = raw.headers.get("content-type", "")
            request = parse_request(raw.fields, content_type, self.context, explain=raw.is_explanation)
        except Exception as error:
            logger.exception("Request %s could not be read.", raw.id)
            request = SingleImageRequest([to_request_error(error, "The request could not be read")])
        return InferenceTask(raw, request, [ImageTask(image) for image in request.images])

    def _document(self, raw: RawRequest) -> Response | None:
        """Return the model card, the demo page or the OpenAPI document; None for an inference request."""
        if raw.is_description:
            description = {"model": self.model, "card": self.card, "engine": self.captioner.engine.summary}
            return Response(json.dumps(description))
        media_type = raw.preferred_media_type(HTML, JSON) if raw.is_get else None
        if media_type == HTML:
            return Response(self.page.html, content_type=f"{HTML}; charset=utf-8", headers=self.page.headers)
        return Response(json.dumps(openapi(self.model, self.context))) if media_type == JSON else None

    def _look_up(self, images: Sequence[ImageTask], stats: BatchStats) -> None:
        """Look images up in the cache."""
        for image in images:
            request = image.step
            if not isinstance(request, ImageRequest):
                continue
            image.cache_key = self.cache.key(request)
            if image.cache_key and (captions := self.cache.get(image.cache_key)):
                image.step = ImageResult(request, captions, cached=True)
                stats.cache_hits += 1
            elif image.cache_key:
                stats.cache_misses += 1

    def _start_stream(self, task: InferenceTask) -> None:
        """Prepare to stream tokens if the request asks for it. Cached captions are sent at once."""
        raw = task.raw
        if not task.request.stream or not (raw.is_http or self.settings.grpc_streaming):
            return
        stream = TokenStream(lambda token: raw.send_chunk(format_chunk("token", {"token": token}, raw.is_http)))
        [image] = task.images
        image.stream = stream
        if isinstance(image.step, ImageResult):
            try:
                stream.update(image.step.captions[0].tokens)
            except Exception as error:
                logger.exception("Request %s could not be streamed.", raw.id)
                image.step = to_request_error(error, "The response could not be streamed")

    def _respond(self, task: InferenceTask, stats: BatchStats) -> Response:
        """Build the response to an inference request, and record its numbers."""
        as_png = (
            task.raw.is_explanation
            and task.raw.preferred_media_type(PNG) is not None
            and isinstance(task.request, SingleImageRequest)
        )
        predictions = [responses.predict(image.result, overlay=as_png) for image in task.images]
        response = self._encode(task, predictions, as_png)
        both = list(zip(task.images, predictions, strict=True))
        stats.requests.append(
            RequestStats(
                request_id=task.raw.id,
                is_http=task.raw.is_http,
                status=response.status,
                outcomes=[_outcome(image, prediction) for image, prediction in both],
                captions=[_best_caption(prediction) for prediction in predictions],
                image_bytes=sum(len(image.image) for image in task.request.images if isinstance(image, ImageRequest)),
                decode_seconds=sum(image.decode_seconds for image in task.images),
                streamed=response.content_type == EVENT_STREAM,
                traceparent=task.raw.headers.get("traceparent", ""),
            )
        )
        return response

    def _encode(self, task: InferenceTask, predictions: Sequence[Prediction], as_png: bool) -> Response:
        """Encode the response as the protocol of the request has it: JSON, the figure, or the end of a stream."""
        request = task.request
        if task.raw.is_open_inference_grpc and not isinstance(request, OpenInferenceRequest):  # an error
            request = OpenInferenceRequest(request.images)
        if isinstance(request, OpenInferenceRequest):
            status, content = open_inference.encode_response(
                request, predictions, self.model, task.raw.id, is_http=not task.raw.is_open_inference_grpc
            )
        else:
            status, content = responses.encode_response(request, predictions, self.model, task.raw.id)
        if as_png and status == 200:
            return Response(b64decode(content["overlay"]), content_type=PNG)
        # After the first token even an error must be a part of the stream.
        if task.stream and (status == 200 or task.stream.num_sent):
            event = "response" if status == 200 else "error"
            return Response(format_chunk(event, content, task.raw.is_http), content_type=EVENT_STREAM)
        return Response(json.dumps(content), status)


def _outcome(image: ImageTask, prediction: Prediction) -> str:
    if isinstance(prediction, RequestError):
        return prediction.type
    return "cached" if isinstance(image.step, ImageResult) and image.step.cached else "ok"


def _best_caption(prediction: Prediction) -> str:
    return "" if isinstance(prediction, RequestError) else str(prediction["caption"])

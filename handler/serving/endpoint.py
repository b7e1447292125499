"""The endpoint without TorchServe: a batch of calls in, an answer to each out, whatever its neighbours are."""

import json
import logging
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from threading import Lock

import torch
from PIL import Image

from handler.backends import validate_backend
from handler.captioner import Caption, Captioner
from handler.errors import OutOfMemory, RequestError, TooManyPixels
from handler.figure import draw_figure, to_png
from handler.image import lies, open_image, to_upright_rgb
from handler.oom import fault, retry_in_halves
from handler.parallel import parallel_map
from handler.serving.cache import Key, ResultCache
from handler.serving.demo import render_page
from handler.serving.messages import Answer, Call
from handler.serving.open_inference import Item, Request, Result, SingleImageRequest
from handler.serving.openapi import openapi
from handler.serving.parsing import Limits, ParseContext, parse_request
from handler.serving.responses import EVENTS, HTML, JSON, PNG, captions_to_json, event, explanations_to_json

logger = logging.getLogger(__name__)

FIGURE = 480  # pixels, the longer side of the picture that a figure is drawn from
LARGE = 4_000_000  # pixels; of such pictures one at a time is decoded: 50 megapixels take 350 MB meanwhile


@dataclass(frozen=True)
class Settings:
    """What `handler` in model-config.yaml says.

    Attributes:
        max_pixels: width × height of a request's pictures together, checked before they are decoded.
        max_bytes: of a picture's file.
        max_images: pictures in one request.
        max_explanations: captions explained in one request.
        max_batch_size: pictures decoded together; a batch of requests with more is cut into several.
        backend: how the encoder runs, see `handler.backends`.
        precision: of encoder and decoder, see there.
        threads: a worker's; 0: the machine's processors, shared evenly by its workers.
        cache_entries: pictures whose captions are kept; 0 keeps none.
        log_captions: whether the log holds what was said.
        grpc_streaming: whether `stream` is heeded over gRPC. A client that sends `stream` with the unary `Predictions`
            ends TorchServe's worker then, and nothing that reaches a handler tells the two apart; so only where all
            gRPC clients are trusted.
    """

    max_pixels: int = Limits.max_pixels
    max_bytes: int = Limits.max_bytes
    max_images: int = Limits.max_images
    max_explanations: int = Limits.max_explanations
    max_batch_size: int = 16
    backend: str = "auto"
    precision: str = "fast"
    threads: int = 0
    cache_entries: int = 0
    log_captions: bool = False
    grpc_streaming: bool = False

    def __post_init__(self):
        for name in ("max_pixels", "max_bytes", "max_images", "max_explanations", "max_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}.")
        if self.threads < 0:
            raise ValueError(f"threads is at least 0, not {self.threads}.")
        validate_backend(self.backend, self.precision)

    @property
    def limits(self) -> Limits:
        return Limits(self.max_pixels, self.max_bytes, self.max_images, self.max_explanations)


@dataclass
class Work:
    """One picture on its way.

    Attributes:
        item: its bytes and options.
        key: in the cache, if it is to be kept there.
        say: who hears its words as they become certain.
        pixels: once it is decoded.
        picture: not decoded yet; then, where it is to be explained, a small copy, upright.
        shape: its width and height, once it is decoded those when it is upright.
        result: once it is captioned, or failed.
        cached: whether the result is the cache's.
        decode: seconds that decoding took.
        said: how many words were said.
    """

    item: Item | None = None
    key: Key | None = None
    say: Callable[[list[str]], None] | None = None
    pixels: torch.Tensor | None = None
    picture: Image.Image | None = None
    shape: tuple[int, int] = (0, 0)
    result: list[Caption] | RequestError | None = None
    cached: bool = False
    decode: float = 0.0
    said: int = 0

    @property
    def size(self) -> int:
        """Pixels that it had to be decoded to."""
        return self.shape[0] * self.shape[1]

    @property
    def seed(self) -> int | None:
        """Of the draws, where captions were drawn."""
        return self.item.options.seed if self.item and self.item.options.do_sample else None

    def listener(self) -> Callable[[list[str]], None]:
        """Hands on words that were not said before: a search that failed half-way is begun again."""

        def hear(words: list[str]) -> None:
            new = words[self.said :]
            if new:
                self.say(new)
                self.said += len(new)

        return hear


@dataclass
class Batch:
    """What a batch took.

    Attributes:
        sizes: pictures decoded together, each time.
        encode: seconds in the encoder, each time.
        search: seconds in the search, each time.
        hits: pictures found in the cache.
        misses: pictures looked for there in vain.
    """

    sizes: list[int] = field(default_factory=list)
    encode: list[float] = field(default_factory=list)
    search: list[float] = field(default_factory=list)
    hits: int = 0
    misses: int = 0


class Endpoint:
    """Answers batches of calls.

    Args:
        captioner: the model.
        model: name, version and digest, for the answers.
        settings: limits and switches.
    """

    def __init__(self, captioner: Captioner, model: dict[str, str], settings: Settings = Settings()):
        self.captioner, self.model, self.settings = captioner, model, settings
        self.cache = ResultCache(settings.cache_entries)
        self._one_at_a_time = Lock()
        card, defaults = captioner.config.card, captioner.config.decoding
        self.page = render_page(model, card, defaults, settings.max_bytes)
        self.captions = ParseContext(defaults, settings.limits)
        self.explanations = self.captions._replace(methods=captioner.explanation_methods)

    def answer(self, calls: Sequence[Call]) -> tuple[list[Answer], Batch]:
        """Answers each call; a call that can't be met gets its error, and its neighbours their captions."""
        batch = Batch()
        requests = [self._request(call) for call in calls]
        works = [self._open(request.items, batch) if request else [] for request in requests]
        self._decode_all([work for some in works for work in some if work.result is None])
        for call, request, some in zip(calls, requests, works, strict=True):
            if request and request.stream and (call.http or self.settings.grpc_streaming):
                some[0].say = self._teller(call)
                if some[0].cached:
                    some[0].say(some[0].result[0].tokens)
        waiting = [work for some in works for work in some if work.result is None]
        for first in range(0, len(waiting), self.settings.max_batch_size):
            self._caption(waiting[first : first + self.settings.max_batch_size], batch)
        return [self._answer(*one) for one in zip(calls, requests, works, strict=True)], batch

    def _request(self, call: Call) -> Request | None:
        """The call's pictures; None where it asks for something else."""
        if call.headers.get("describe") == "True" or (call.bare and call.accepted(HTML, JSON)):
            return None
        try:
            asking = self.explanations if call.explains else self.captions
            return parse_request(call.row, call.headers.get("content-type", ""), asking)
        except Exception as error:
            logger.exception("Request %s could not be read.", call.id)
            return SingleImageRequest([fault(error, "The request could not be read")])

    def _open(self, items: Sequence[Item | RequestError], batch: Batch) -> list[Work]:
        """The works of a request's pictures, their headers read."""
        works: list[Work] = []
        for item in items:
            left = self.settings.max_pixels - sum(work.size for work in works)
            works.append(Work(result=item) if isinstance(item, RequestError) else self._open_one(item, left, batch))
        return works

    def _open_one(self, item: Item, max_pixels: int, batch: Batch) -> Work:
        """Looks a picture up in the cache, and reads its header where it is not there."""
        work = Work(item, self.cache.key(item))
        if work.key:
            work.result = self.cache.get(work.key)
            work.cached = work.result is not None
            batch.hits += work.cached
            batch.misses += not work.cached
        if work.cached:
            return work
        if item.options.do_sample and item.options.seed is None:
            work.item = item._replace(options=replace(item.options, seed=secrets.randbelow(2**32)))
        with self._preparing(work):
            work.picture = open_image(item.image, self.settings.max_pixels)
            work.shape = work.picture.size  # what it costs to decode it, though it be damaged
            if work.size > max_pixels:
                raise TooManyPixels(
                    f"The request's pictures together have more than the {self.settings.max_pixels} pixels allowed."
                )
        return work

    def _decode_all(self, works: list[Work]) -> None:
        """Decodes pictures side by side, and once more alone those that there was no memory for."""
        parallel_map(self._decode, works)
        for work in works:
            if isinstance(work.result, OutOfMemory):
                work.result = None
                self._decode(work)

    def _decode(self, work: Work) -> None:
        """A picture's pixels, as the encoder takes them; other pictures' are decoded in other threads meanwhile."""
        preprocessing = self.captioner.config.preprocessing
        with self._one_at_a_time if work.size > LARGE else nullcontext(), self._preparing(work):
            opened, work.picture = work.picture or open_image(work.item.image, self.settings.max_pixels), None
            explain = work.item.explain
            image = to_upright_rgb(opened, preprocessing.enough)  # what is explained is what would be captioned
            if lies(opened):
                work.shape = work.shape[::-1]
            work.pixels = preprocessing.resize(image)
            if explain:
                image.thumbnail((FIGURE, FIGURE))
                work.picture = image

    @contextmanager
    def _preparing(self, work: Work) -> Iterator[None]:
        """Adds up the time, and keeps an error as the picture's result."""
        began = time.perf_counter()
        try:
            yield
        except RequestError as error:
            work.result = type(error)(error.message)  # its traceback would keep what was decoded in memory
        except Exception as error:
            logger.exception("A picture could not be prepared.")
            work.result = fault(error, "The picture could not be prepared")
        work.decode += time.perf_counter() - began

    def _caption(self, works: list[Work], batch: Batch) -> None:
        """Captions pictures together, each with its own options; if that fails, by halves, down to who can't be met."""
        for alone, error in retry_in_halves(works, lambda some: self._captioned(some, batch)):
            alone.result = error

    def _captioned(self, works: Sequence[Work], batch: Batch) -> RequestError | None:
        """Tries to caption pictures together. When it fails, all that was in memory for it is let go on return."""
        try:
            began = time.perf_counter()
            grid = self.captioner.encode(torch.stack([work.pixels for work in works]))
            encoded = time.perf_counter()
            listeners = {place: work.listener() for place, work in enumerate(works) if work.say}
            found = self.captioner.caption_features(grid, [work.item.options for work in works], listeners)
            if not all(found):
                raise RuntimeError("A picture got no caption.")
            for place, work in enumerate(works):
                if work.item.explain and work.item.explain.method == "gradient":
                    found[place] = [
                        self.captioner.with_gradient_attributions(caption, grid[place]) for caption in found[place]
                    ]
        except Exception as error:  # out of memory, most likely
            logger.exception("%d pictures could not be captioned together.", len(works))
            return fault(error, "The picture could not be captioned")
        batch.sizes.append(len(works))
        batch.encode.append(encoded - began)
        batch.search.append(time.perf_counter() - encoded)
        for work, captions in zip(works, found, strict=True):
            work.result = captions
            if work.key:
                self.cache.put(work.key, captions)
        return None

    def _teller(self, call: Call) -> Callable[[list[str]], None]:
        """Sends each word as a part of the answer."""

        def say(words: list[str]) -> None:
            for word in words:
                call.send(event("token", {"token": word}, call.http))

        return say

    def _answer(self, call: Call, request: Request | None, works: list[Work]) -> Answer:
        if request is None:
            if call.headers.get("describe") == "True":
                return Answer(json.dumps({"model": self.model, "card": self.captioner.config.card}))
            if call.accepted(HTML, JSON) == HTML:
                return Answer(self.page.html, content_type=f"{HTML}; charset=utf-8", headers=self.page.headers)
            return Answer(json.dumps(openapi(self.model, self.explanations)))
        as_png = call.explains and call.accepted(PNG) and isinstance(request, SingleImageRequest)
        results = [_describe(work, as_png) for work in works]
        code, body = request.answer(results, self.model, call.id)
        answer = Answer(json.dumps(body), code)
        if as_png and code == 200:
            answer = Answer(b64decode(body["overlay"]), content_type=PNG)
        if works[0].say and (code == 200 or works[0].said):  # once words are out, an error has to be a part, too
            part = event("response" if code == 200 else "error", body, call.http)
            answer = Answer(part, 200, EVENTS, stream=True)
        for work, result in zip(works, results, strict=True):
            failed = isinstance(result, RequestError)
            answer.results.append(result.type if failed else "cached" if work.cached else "ok")
            answer.captions.append("" if failed else work.result[0].text)
            answer.bytes += len(work.item.image) if work.item else 0
            answer.decode += work.decode
        return answer


def _describe(work: Work, overlay: bool) -> Result:
    """A picture's part of the answer, with the figure if that is asked for."""
    if isinstance(work.result, RequestError):
        return work.result
    if not (explain := work.item.explain):
        return captions_to_json(work.result, work.seed)
    try:
        described = explanations_to_json(work.result, work.seed, explain.method, work.shape)
        if overlay or explain.overlay:
            described["overlay"] = b64encode(to_png(draw_figure(work.picture, work.result[0]))).decode()
        return described
    except Exception as error:  # a neighbour of it in the batch has no part in that
        logger.exception("A caption could not be explained.")
        return fault(error, "The caption could not be explained")

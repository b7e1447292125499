"""TorchServe's entry: rows in, answers out, as many as came. What it does with a picture is `Captioner`'s.

TorchServe imports this file by its bare name, so that it can't be called handler.py beside the package `handler`, and
it may define one class only.
"""

import json
import logging
from pathlib import Path

import torch
from PIL import Image

import handler
from handler.captioner import Caption, Captioner
from handler.errors import RequestError
from handler.image import MAX_PIXELS
from handler.request import parse_request
from handler.response import PHRASES, caption_response, error_response

logger = logging.getLogger(__name__)


class CaptionerService:
    """What TorchServe calls: `initialize` once, then `handle` a batch."""

    def initialize(self, context) -> None:
        """Loads the bundle that lies in the archive, and captions once, so that a worker is READY only if it can."""
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        device = f"cuda:{gpu}" if torch.cuda.is_available() and gpu is not None else "cpu"
        self.captioner = Captioner.load(Path(properties["model_dir"]) / "model", device)
        self.max_pixels = (context.model_yaml_config or {}).get("handler", {}).get("max_pixels", MAX_PIXELS)
        model = context.manifest["model"]
        self.model = {
            "name": model["modelName"],
            "version": model["modelVersion"],
            "digest": self.captioner.config.digest,
        }
        self.captioner.caption([Image.new("RGB", (64, 64))])
        logger.info(
            "captioner %s ready on %s, code from %s", self.model["digest"], device, Path(handler.__file__).parent
        )

    def handle(self, data: list[dict], context) -> list[str]:
        """Answers each row; a row that can't be answered gets its error, and its neighbours their captions."""
        headers = [_lower_case(context.get_all_request_header(place)) for place in range(len(data))]
        found = {}
        pixels, options, places = [], [], []
        for place, row in enumerate(data):
            if headers[place].get("describe") == "True":
                continue
            try:
                request = parse_request(row, headers[place].get("content-type", ""), self.captioner.config.decoding)
                pixels.append(self.captioner.prepare(request.image, self.max_pixels))
                options.append(request.options)
                places.append(place)
            except RequestError as error:
                found[place] = error
        if places:
            found |= zip(places, self.captioner.caption_pixels(torch.stack(pixels), options), strict=True)
        return [self._answer(place, found.get(place), headers[place], context) for place in range(len(data))]

    def _answer(self, place: int, found: list[Caption] | RequestError | None, headers: dict[str, str], context) -> str:
        """Captions, an error, or where nothing was to be found, the model's description."""
        context.set_response_content_type(place, "application/json")
        # gRPC requests have no headers; without this one any client's StreamPredictions ends the worker.
        if "host" not in headers and "explain" not in headers:
            context.set_response_header(place, "ts_stream_next", "false")
        if found is None:
            return json.dumps({"model": self.model, "card": self.captioner.config.card})
        request_id = context.get_request_id(place)
        if isinstance(found, RequestError):
            context.set_response_status(found.code, PHRASES[found.code], place)
            return error_response(found, request_id)
        return caption_response(found, self.model, request_id)


def _lower_case(headers: dict) -> dict[str, str]:
    """TorchServe keeps the spelling of the client, and puts each form field's content type among the headers."""
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}

"""TorchServe's entry: rows in, answers out, as many as came. What it answers is `Endpoint`'s.

TorchServe imports this file by its bare name, so that it can't be called handler.py beside the package `handler`, and
it may define one class only.
"""

import logging
from http import HTTPStatus
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from ts.handler_utils.utils import send_intermediate_predict_response

import handler
from handler.backends.buckets import BUCKETS
from handler.captioner import Captioner
from handler.parallel import available_cpus
from handler.serving.endpoint import Endpoint
from handler.serving.messages import EVENT_STREAM, RawRequest
from handler.serving.metrics import Telemetry
from handler.serving.settings import Settings

logger = logging.getLogger(__name__)


class CaptionerService:
    """What TorchServe calls: `initialize` once, then `handle` a batch."""

    def initialize(self, context) -> None:
        """Loads the bundle that lies in the archive, and warms up, so that a worker is READY only if it can caption.

        Raises:
            BundleError: the bundle is damaged.
            TypeError: model-config.yaml has a setting under `handler` that there is not.
            ValueError: or one with a value that can't be.
        """
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        device = f"cuda:{gpu}" if torch.cuda.is_available() and gpu is not None else "cpu"
        configured = context.model_yaml_config or {}
        settings = Settings(**configured.get("handler", {}))
        torch.set_num_threads(settings.threads or max(1, available_cpus() // int(configured.get("maxWorkers") or 1)))
        folder = Path(properties["model_dir"]) / "model"
        captioner = Captioner.load(folder, device, backend=settings.backend, precision=settings.precision)
        version = context.manifest["model"]["modelVersion"]
        # Under its own name there: it may be registered under another than the archive's.
        model = {"name": context.model_name, "version": version, "digest": captioner.config.digest}
        self.endpoint = Endpoint(captioner, model, settings)
        self.telemetry = Telemetry(context.metrics, model["name"], settings.log_captions)
        self._warm_up(captioner, int(properties.get("batch_size") or 1))
        logger.info(
            "captioner %s ready on %s, back end %s, %d threads, code from %s",
            model["digest"], device, captioner.engine.backend, torch.get_num_threads(), Path(handler.__file__).parent,
        )  # fmt: skip

    def _warm_up(self, captioner: Captioner, batch_size: int) -> None:
        """Captions once at each size that encoders are given: the first call of a shape is slower than the others."""
        stream = BytesIO()
        Image.effect_noise((640, 480), 50).convert("RGB").save(stream, "JPEG")
        pixels = captioner.preprocess(stream.getvalue()).unsqueeze(0)
        for size in BUCKETS:  # a lone picture last: that is how most come
            if size <= batch_size:
                captioner.caption_pixels(pixels.expand(size, -1, -1, -1), [captioner.config.decoding] * size)

    def handle(self, data: list[dict], context) -> list[str | bytes]:
        """Answers each row of a batch."""
        raw_requests = [self._to_request(index, fields, context) for index, fields in enumerate(data)]
        responses, stats = self.endpoint.handle_batch(raw_requests)
        self.telemetry.record(stats)
        for index, response in enumerate(responses):
            context.set_response_content_type(index, response.content_type)
            context.set_response_status(response.status, HTTPStatus(response.status).phrase, index)
            for name, value in response.headers.items():
                context.set_response_header(index, name, value)
        return [response.body for response in responses]

    def _to_request(self, index: int, fields: dict, context) -> RawRequest:
        # TorchServe keeps the spelling of the client, and puts each form field's content type among the headers.
        raw_headers = context.get_all_request_header(index)
        headers = {name.lower(): value for name, value in raw_headers.items() if isinstance(value, str)}
        request_id = context.get_request_id(index)

        def send_chunk(chunk: str) -> None:
            context.set_response_content_type(index, EVENT_STREAM)
            send_intermediate_predict_response({index: chunk}, {index: request_id}, "", 200, context)

        request = RawRequest(fields, headers, request_id, send_chunk)
        if not request.is_http:  # without this any client's StreamPredictions ends the worker
            context.set_response_header(index, "ts_stream_next", "false")
        return request

"""TorchServe entry point: a batch of requests in, as many responses out. `Endpoint` does the work.

TorchServe imports this file by its bare name, so it cannot be called handler.py beside the package `handler`, and it
may define only one class.
"""

import logging
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from ts.handler_utils.utils import send_intermediate_predict_response  # type: ignore[import-untyped]

import handler
from handler.captioner import Captioner
from handler.parallel import available_cpus
from handler.serving.endpoint import Endpoint
from handler.serving.messages import EVENT_STREAM, RawRequest
from handler.serving.metrics import Telemetry
from handler.serving.settings import Settings

logger = logging.getLogger(__name__)


class CaptionerService:
    """The handler that TorchServe calls: `initialize` once, then `handle` for each batch."""

    def initialize(self, context: Any) -> None:  # noqa: ANN401 -- TorchServe is untyped
        """Load the bundle from the archive and warm up: a worker is READY only if it can caption.

        Args:
            context: The context of the worker, `ts.context.Context`.

        Raises:
            BundleError: If the bundle is damaged.
            ValueError: If model-config.yaml has an unknown setting or an invalid value.
        """
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        device = f"cuda:{gpu}" if torch.cuda.is_available() and gpu is not None else "cpu"
        configured = context.model_yaml_config or {}
        settings = Settings.from_model_config(configured)
        torch.set_num_threads(settings.threads or max(1, available_cpus() // int(configured.get("maxWorkers") or 1)))
        directory = Path(properties["model_dir"]) / "model"
        captioner = Captioner.load(directory, device, backend=settings.backend, precision=settings.precision)
        version = context.manifest["model"]["modelVersion"]
        # The registered name, which can differ from that of the archive.
        model = {"name": context.model_name, "version": version, "digest": captioner.config.digest}
        self.endpoint = Endpoint(captioner, model, settings)
        self.telemetry = Telemetry(context.metrics, model["name"], settings.log_captions)
        self._warm_up(captioner, int(properties.get("batch_size") or 1))
        self.telemetry.record_precision(captioner.engine.encoder.precision)
        logger.info(
            "captioner %s ready on %s, backend %s, encoder in %s, %d threads, code from %s",
            model["digest"],
            device,
            captioner.engine.backend,
            captioner.engine.encoder.precision,
            torch.get_num_threads(),
            Path(handler.__file__).parent,
        )

    def _warm_up(self, captioner: Captioner, batch_size: int) -> None:
        """Caption once at each batch size that the backend names: the first call of a shape is slow."""
        buffer = BytesIO()
        Image.effect_noise((640, 480), 50).convert("RGB").save(buffer, "JPEG")
        pixels = captioner.preprocess(buffer.getvalue()).unsqueeze(0)
        for size in captioner.engine.encoder.warm_up_sizes(batch_size):
            captioner.caption_pixels(pixels.expand(size, -1, -1, -1), [captioner.config.decoding] * size)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str | bytes]:  # noqa: ANN401 -- as above
        """Return the response bodies of a batch; status, content type and headers go into the context.

        Args:
            data: The fields of each request.
            context: As for `initialize`.
        """
        raw_requests = [self._to_request(index, fields, context) for index, fields in enumerate(data)]
        responses, stats = self.endpoint.handle_batch(raw_requests)
        self.telemetry.record(stats)
        for index, response in enumerate(responses):
            context.set_response_content_type(index, response.content_type)
            context.set_response_status(response.status, HTTPStatus(response.status).phrase, index)
            for name, value in response.headers.items():
                context.set_response_header(index, name, value)
        return [response.body for response in responses]

    def _to_request(self, index: int, fields: dict[str, Any], context: Any) -> RawRequest:  # noqa: ANN401 -- as above
        # Header names have the client's spelling, and each form field has its content type among them as a dict.
        raw_headers = context.get_all_request_header(index)
        headers = {name.lower(): value for name, value in raw_headers.items() if isinstance(value, str)}
        request_id = context.get_request_id(index)

        def send_chunk(chunk: str) -> None:
            context.set_response_content_type(index, EVENT_STREAM)
            send_intermediate_predict_response({index: chunk}, {index: request_id}, "", 200, context)

        request = RawRequest(fields, headers, request_id, send_chunk)
        if not request.is_http:  # without this, a StreamPredictions call of any client would end the worker
            context.set_response_header(index, "ts_stream_next", "false")
        return request

"""TorchServe's entry: rows in, answers out, as many as came. What it answers is `Endpoint`'s.

TorchServe imports this file by its bare name, so that it can't be called handler.py beside the package `handler`, and
it may define one class only.
"""

import logging
import time
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from ts.handler_utils.utils import send_intermediate_predict_response

import handler
from handler.backends.buckets import BUCKETS
from handler.captioner import Captioner
from handler.parallel import available_cpus
from handler.serving.endpoint import Endpoint, Settings
from handler.serving.messages import Call
from handler.serving.metrics import Telemetry
from handler.serving.responses import EVENTS, PHRASES

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
        began = time.perf_counter()
        calls = [self._call(place, row, context) for place, row in enumerate(data)]
        answers, batch = self.endpoint.answer(calls)
        self.telemetry.record(calls, answers, batch, time.perf_counter() - began)
        for place, answer in enumerate(answers):
            context.set_response_content_type(place, answer.content_type)
            context.set_response_status(answer.code, PHRASES[answer.code], place)
            for name, value in answer.headers.items():
                context.set_response_header(place, name, value)
        return [answer.body for answer in answers]

    def _call(self, place: int, row: dict, context) -> Call:
        # TorchServe keeps the spelling of the client, and puts each form field's content type among the headers.
        sent = context.get_all_request_header(place)
        headers = {name.lower(): value for name, value in sent.items() if isinstance(value, str)}
        request_id = context.get_request_id(place)

        def send(part: str) -> None:
            context.set_response_content_type(place, EVENTS)
            send_intermediate_predict_response({place: part}, {place: request_id}, "", 200, context)

        call = Call(row, headers, request_id, send)
        if not call.http:  # without this any client's StreamPredictions ends the worker
            context.set_response_header(place, "ts_stream_next", "false")
        return call

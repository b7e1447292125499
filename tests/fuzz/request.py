"""Fuzz target `request`: any row from TorchServe is parsed into images with options, or into request errors."""

import json

from atheris import FuzzedDataProvider

from handler.errors import RequestError
from handler.generation import GENERATION_OPTIONS, GenerationConfig
from handler.serving import open_inference, responses
from handler.serving.image_parsing import ParseContext
from handler.serving.messages import ImageRequest
from handler.serving.open_inference import OpenInferenceRequest
from handler.serving.parsing import parse_request
from handler.serving.settings import Settings
from tests.adversarial.request_cases import as_torchserve_reads

CONTEXT = ParseContext(GenerationConfig(), Settings(max_bytes=1000, max_images=8), ("attention", "gradient"))
TYPES = [
    "application/json",
    "Application/JSON; charset=x",
    "multipart/form-data; boundary=x",
    "image/png",
    "text/plain",
    "",
]
NAMES = [
    "image", "images", "instances", "inputs", "outputs", "parameters", "body", "data", "b64", "id", "stream", "method",
    "overlay", "name", "shape", "datatype", *GENERATION_OPTIONS,
]  # fmt: skip
TEXTS = [
    "true",
    "false",
    "BYTES",
    "caption",
    "response",
    "attention",
    "aGk=",
    "data:image/png;base64,aGk=",
    "1",
    "0.5",
    "",
]


def target(data: bytes) -> None:
    """Build a row from the bytes, parse it, and format the response.

    Raises:
        Exception: Any is a crash.
    """
    source = FuzzedDataProvider(data)
    content_type, explain = source.PickValueInList(TYPES), source.PickValueInList([False, True])
    kind_of_row = source.ConsumeIntInRange(0, 2)
    if kind_of_row == 0:  # a body, parsed as TorchServe parses it
        body = bytearray(source.ConsumeBytes(source.remaining_bytes()))
        row = {"body": as_torchserve_reads(body, content_type)}
    elif kind_of_row == 1:
        row = {"body": value(source)}
    else:  # fields of a form or of gRPC
        row = {name(source): field(source) for _ in range(source.ConsumeIntInRange(0, 6))}
    request = parse_request(row, content_type, CONTEXT, explain=explain)
    assert request.images
    for item in request.images:
        assert isinstance(item, ImageRequest) or (isinstance(item, RequestError) and 400 <= item.code < 500), item
        assert not isinstance(item, ImageRequest) or (item.image and isinstance(item.image, bytes))
    results = [item if isinstance(item, RequestError) else {"caption": "a dog"} for item in request.images]
    model = {"name": "captioner", "version": "1.0", "digest": "sha256:0"}
    if isinstance(request, OpenInferenceRequest):
        status, content = open_inference.encode_response(request, results, model, "1")
    else:
        status, content = responses.encode_response(request, results, model, "1")
    assert 200 <= status < 500
    json.dumps(content).encode()


def name(source: FuzzedDataProvider) -> str:
    """Return a field name: a known one in nine of ten cases."""
    known = source.ConsumeIntInRange(0, 9)
    return source.PickValueInList(NAMES) if known else source.ConsumeUnicode(source.ConsumeIntInRange(0, 60))


def text(source: FuzzedDataProvider) -> str:
    """Return a known text, or any, including lone surrogates."""
    return (
        source.PickValueInList(TEXTS)
        if source.ConsumeBool()
        else source.ConsumeUnicode(source.ConsumeIntInRange(0, 60))
    )


def field(source: FuzzedDataProvider) -> object:
    """Return the value of a form field: bytes, a text, or a JSON value."""
    kind = source.ConsumeIntInRange(0, 3)
    if kind == 0:
        return bytearray(source.ConsumeBytes(source.ConsumeIntInRange(0, 60)))
    if kind == 1:
        return text(source)
    found = value(source)
    return found if kind == 2 else bytearray(json.dumps(found).encode())


def value(source: FuzzedDataProvider, depth: int = 0) -> object:
    """Return any JSON value."""
    kind = source.ConsumeIntInRange(0, 7 if depth < 4 else 5)
    if kind == 0:
        return source.PickValueInList([None, True, False])
    if kind == 1:
        return source.ConsumeInt(4)
    if kind == 2:
        return 10 ** source.ConsumeIntInRange(0, 4000) * source.PickValueInList([1, -1])
    if kind == 3:
        return source.ConsumeFloat()
    if kind in (4, 5):
        return text(source)
    count = source.ConsumeIntInRange(0, 9)
    if kind == 6:
        return [value(source, depth + 1) for _ in range(count)]
    return {name(source): value(source, depth + 1) for _ in range(count)}

"""Any row that TorchServe can hand over is read: pictures with their options, or the handler's own errors."""

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
    """Builds a row of the bytes, reads it, and answers it.

    Raises:
        Exception: any at all is a crash.
    """
    source = FuzzedDataProvider(data)
    content_type, explain = source.PickValueInList(TYPES), source.PickValueInList([False, True])
    way = source.ConsumeIntInRange(0, 2)
    if way == 0:  # a body as it came, read as TorchServe reads it
        body = bytearray(source.ConsumeBytes(source.remaining_bytes()))
        row = {"body": as_torchserve_reads(body, content_type)}
    elif way == 1:
        row = {"body": value(source)}
    else:  # a form's or gRPC's fields
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
    """A field's: mostly one that means something."""
    known = source.ConsumeIntInRange(0, 9)
    return source.PickValueInList(NAMES) if known else source.ConsumeUnicode(source.ConsumeIntInRange(0, 60))


def text(source: FuzzedDataProvider) -> str:
    """One that means something, or any, lone surrogates among them."""
    return (
        source.PickValueInList(TEXTS)
        if source.ConsumeBool()
        else source.ConsumeUnicode(source.ConsumeIntInRange(0, 60))
    )


def field(source: FuzzedDataProvider) -> object:
    """A form field's value: bytes, a text, or JSON's value where the part said so."""
    kind = source.ConsumeIntInRange(0, 3)
    if kind == 0:
        return bytearray(source.ConsumeBytes(source.ConsumeIntInRange(0, 60)))
    if kind == 1:
        return text(source)
    found = value(source)
    return found if kind == 2 else bytearray(json.dumps(found).encode())


def value(source: FuzzedDataProvider, depth: int = 0) -> object:
    """Any value that JSON has."""
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

"""Raw requests for an endpoint without TorchServe, and their responses."""

import base64
import json
from typing import Any

from handler.serving.endpoint import Endpoint
from handler.serving.messages import EVENT_STREAM, RawRequest
from tests.helpers.paths import PHOTOS

MODEL = {"name": "captioner", "version": "1.0", "digest": "sha256:0"}
JSON_HEADERS = {"content-type": "application/json"}
IMAGES = [photo.read_bytes() for photo in PHOTOS if photo.stem in ("astronaut", "cat", "coffee")]
ENCODED = [base64.b64encode(image).decode() for image in IMAGES]


def raw_request(
    fields: dict, headers: dict | None = None, *, http: bool = True, chunks: list | None = None
) -> RawRequest:
    """A request as TorchServe hands it over; `chunks` receives the parts of a streamed response."""
    return RawRequest(
        fields, ({"host": "x"} if http else {}) | (headers or {}), "id", (chunks if chunks is not None else []).append
    )


def json_request(content: Any, headers: dict | None = None) -> RawRequest:
    """A JSON request, parsed by TorchServe."""
    return raw_request({"body": content}, JSON_HEADERS | (headers or {}))


def respond(endpoint: Endpoint, *requests: RawRequest) -> list[tuple[int, Any]]:
    """Status and content of each response, parsed unless it is the end of a stream."""
    responses, _ = endpoint.handle_batch(requests)
    return [
        (response.status, response.body if response.content_type == EVENT_STREAM else json.loads(response.body))
        for response in responses
    ]


def stream_tokens(chunks: list[str]) -> list[str]:
    """Tokens of the parts of a response that was streamed as server-sent events."""
    return [json.loads(chunk.removeprefix("event: token\ndata: "))["token"] for chunk in chunks]

"""Captions and errors → the JSON that the endpoint answers with, the same over REST and gRPC."""

import json
from collections.abc import Sequence
from typing import Any

from handler.captioner import Caption
from handler.encoder import grid_shape
from handler.errors import RequestError

# Fixed phrases: a caller's text in a header or a phrase can end a TorchServe worker.
PHRASES = {
    200: "OK",
    400: "Bad Request",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    500: "Internal Server Error",
}
JSON, EVENTS = "application/json", "text/event-stream"


def describe_captions(captions: Sequence[Caption], seed: int | None) -> dict[str, Any]:
    """A picture's best caption, all that were asked for, and the seed where they were drawn."""
    described = {"caption": captions[0].caption, "captions": [_describe(caption) for caption in captions]}
    return described | ({} if seed is None else {"seed": seed})


def describe_error(error: RequestError) -> dict[str, Any]:
    """What is wrong with a request or a picture. It carries its code, as gRPC has no other place for it."""
    return {"code": error.code, "type": error.type, "message": error.message}


def event(name: str, content: dict[str, Any], http: bool) -> str:
    """One part of a stream: a server-sent event over HTTP; over gRPC, where each part is a message, the bare JSON."""
    text = json.dumps(content)
    return f"event: {name}\ndata: {text}\n\n" if http else text


def _describe(caption: Caption) -> dict[str, Any]:
    described = {
        "caption": caption.caption,
        "score": round(caption.score, 5),
        "tokens": caption.tokens,
        "token_logprobs": [round(logprob, 5) for logprob in caption.token_logprobs],
    }
    if caption.attention is not None:
        rows, columns = grid_shape(caption.attention.shape[-1])
        weights = caption.attention.unflatten(-1, (rows, columns)).tolist()
        described["attention"] = [[[round(cell, 5) for cell in row] for row in grid] for grid in weights]
    return described

"""Captions and errors → the JSON that the endpoint answers with, the same over REST and gRPC."""

import json
from collections.abc import Sequence
from typing import Any

from handler.captioner import Caption
from handler.encoder import grid_shape
from handler.errors import RequestError

# Fixed phrases: a caller's text in a header or a phrase can end a TorchServe worker.
PHRASES = {
    400: "Bad Request",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
}


def caption_response(captions: Sequence[Caption], model: dict[str, str], request_id: str) -> str:
    """The answer to a picture: its best caption, all that were asked for, and what made them."""
    return json.dumps(
        {
            "caption": captions[0].caption,
            "captions": [_describe(caption) for caption in captions],
            "model": model,
            "request_id": request_id,
        }
    )


def error_response(error: RequestError, request_id: str) -> str:
    """The answer to a request that can't be met. It carries its code, as gRPC has no other place for it."""
    return json.dumps({"code": error.code, "type": error.type, "message": error.message, "request_id": request_id})


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

"""Captions and errors → the JSON that the endpoint answers with, the same over REST and gRPC."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from handler.attribution import entropy
from handler.captioner import Caption
from handler.errors import RequestError

# Fixed phrases: a caller's text in a header or a phrase can end a TorchServe worker.
PHRASES = {
    200: "OK",
    400: "Bad Request",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    500: "Internal Server Error",
    507: "Insufficient Storage",
}
JSON, EVENTS = "application/json", "text/event-stream"


HTML, PNG = "text/html", "image/png"


def captions_to_json(captions: Sequence[Caption], seed: int | None) -> dict[str, Any]:
    """A picture's best caption, all that were asked for, and the seed where they were drawn."""
    described = {"caption": captions[0].text, "captions": [_describe(caption) for caption in captions]}
    return described | ({} if seed is None else {"seed": seed})


def explanations_to_json(
    captions: Sequence[Caption], seed: int | None, method: str, size: tuple[int, int]
) -> dict[str, Any]:
    """As `captions_to_json`, with each word's weights over the grid in the picture's own coordinates.

    Args:
        captions: with attributions.
        seed: where they were drawn.
        method: by which the weights were found.
        size: width and height of the upright picture, in pixels.
    """
    rows, columns = captions[0].attributions.shape[-2:]
    described = captions_to_json([replace(caption, attributions=None) for caption in captions], seed)
    for caption, part in zip(captions, described["captions"], strict=True):
        bits = entropy(caption.attributions).tolist()
        part["words"] = [
            {"token": token, "weights": _rounded(grid), "entropy": round(spread, 3), "peak": _peak(grid, size)}
            for token, grid, spread in zip(caption.tokens, caption.attributions, bits, strict=True)
        ]
    picture = {"width": size[0], "height": size[1]}
    return described | {"explanation": {"method": method, "rows": rows, "columns": columns, "picture": picture}}


def _peak(grid: torch.Tensor, size: tuple[int, int]) -> dict[str, int]:
    """The heaviest cell's rectangle in the picture, in pixels."""
    rows, columns = grid.shape
    row, column = divmod(int(grid.argmax()), columns)
    left, right = (round(size[0] * edge / columns) for edge in (column, column + 1))
    top, bottom = (round(size[1] * edge / rows) for edge in (row, row + 1))
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


def _rounded(grid: torch.Tensor) -> list[list[float]]:
    return [[round(cell, 5) for cell in row] for row in grid.tolist()]


def error_to_json(error: RequestError) -> dict[str, Any]:
    """What is wrong with a request or a picture. It carries its code, as gRPC has no other place for it."""
    return {"code": error.code, "type": error.type, "message": error.message}


def event(name: str, content: dict[str, Any], http: bool) -> str:
    """One part of a stream: a server-sent event over HTTP; over gRPC, where each part is a message, the bare JSON."""
    text = json.dumps(content)
    return f"event: {name}\ndata: {text}\n\n" if http else text


def _describe(caption: Caption) -> dict[str, Any]:
    described = {
        "caption": caption.text,
        "score": round(caption.score, 5),
        "tokens": caption.tokens,
        "token_logprobs": [round(logprob, 5) for logprob in caption.token_logprobs],
    }
    if caption.attributions is not None:
        described["attention"] = [_rounded(grid) for grid in caption.attributions]
    return described

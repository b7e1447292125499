"""JSON of captions, explanations and errors, the same over REST and gRPC."""

import logging
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from handler.attribution import entropy
from handler.captioner import Caption
from handler.errors import RequestError
from handler.figure import draw_figure, to_png
from handler.oom import to_request_error
from handler.serving.image_task import ImageResult
from handler.serving.messages import InferenceRequest, SingleImageRequest

logger = logging.getLogger(__name__)

Prediction = dict[str, Any] | RequestError  # JSON content for an image, or its error


def predict(result: ImageResult | RequestError, overlay: bool = False) -> Prediction:
    """Build the JSON content for an image.

    Args:
        result: Captions or error of the image.
        overlay: Add the figure even if the request does not ask for it.
    """
    if isinstance(result, RequestError):
        return result
    request = result.request
    if not request.explain or not result.size or not result.thumbnail:
        return captions_to_json(result.captions, request.seed)
    try:
        content = explanations_to_json(result.captions, request.seed, request.explain.method, result.size)
        if overlay or request.explain.overlay:
            content["overlay"] = b64encode(to_png(draw_figure(result.thumbnail, result.captions[0]))).decode()
        return content
    except Exception as error:  # must not reach the other images of the batch
        logger.exception("The caption could not be explained.")
        return to_request_error(error, "The caption could not be explained")


def encode_response(
    request: InferenceRequest, predictions: Sequence[Prediction], model: dict[str, str], request_id: str
) -> tuple[int, dict[str, Any]]:
    """Encode a response of the native protocol or the V1 inference protocol.

    Args:
        request: The request.
        predictions: One per image.
        model: Name, version and digest.
        request_id: Request id assigned by the server.

    Returns:
        The HTTP status and the JSON content.
    """
    status, contents = overall_status(predictions), encode_predictions(predictions)
    if not isinstance(request, SingleImageRequest):
        return status, {"predictions": contents, "model": model, "request_id": request_id}
    [content] = contents
    about_model = {"model": model} if status == 200 else {}
    return status, content | about_model | {"request_id": request_id}


def overall_status(predictions: Sequence[Prediction]) -> int:
    """Return 200 if at least one image has a caption, else the status of the first error."""
    errors = [prediction for prediction in predictions if isinstance(prediction, RequestError)]
    return errors[0].code if len(errors) == len(predictions) else 200


def encode_predictions(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return the JSON content for each image, errors included."""
    return [
        error_to_json(prediction) if isinstance(prediction, RequestError) else prediction for prediction in predictions
    ]


def error_to_json(error: RequestError) -> dict[str, Any]:
    """Describe an error of a request or an image. It includes the status, which gRPC has no other place for."""
    return {"code": error.code, "type": error.type, "message": str(error)}


def captions_to_json(captions: Sequence[Caption], seed: int | None) -> dict[str, Any]:
    """Describe the captions of an image.

    Args:
        captions: Best first.
        seed: Seed of sampled captions; None for beam search.
    """
    content = {"caption": captions[0].text, "captions": [_caption_to_json(caption) for caption in captions]}
    return content if seed is None else content | {"seed": seed}


def _caption_to_json(caption: Caption) -> dict[str, Any]:
    content: dict[str, Any] = {
        "caption": caption.text,
        "score": round(caption.score, 5),
        "tokens": caption.tokens,
        "token_logprobs": [round(logprob, 5) for logprob in caption.token_logprobs],
    }
    if caption.attributions is not None:
        content["attention"] = [_round_grid(grid) for grid in caption.attributions]
    return content


def explanations_to_json(
    captions: Sequence[Caption], seed: int | None, method: str, size: tuple[int, int]
) -> dict[str, Any]:
    """Describe captions with the weight of each grid cell for each token.

    Args:
        captions: With attributions, best first.
        seed: Seed of sampled captions; None for beam search.
        method: Explanation method.
        size: Width and height of the upright image in pixels.

    Raises:
        ValueError: If a caption has no attributions.
    """
    content = captions_to_json([replace(caption, attributions=None) for caption in captions], seed)
    rows = columns = 0
    for caption, caption_content in zip(captions, content["captions"], strict=True):
        if caption.attributions is None:
            raise ValueError("A caption has no attributions.")
        rows, columns = caption.attributions.shape[-2:]
        entropies = entropy(caption.attributions).tolist()
        caption_content["words"] = [
            {"token": token, "weights": _round_grid(grid), "entropy": round(bits, 3), "peak": _peak(grid, size)}
            for token, grid, bits in zip(caption.tokens, caption.attributions, entropies, strict=True)
        ]
    picture = {"width": size[0], "height": size[1]}
    return content | {"explanation": {"method": method, "rows": rows, "columns": columns, "picture": picture}}


def _peak(grid: torch.Tensor, size: tuple[int, int]) -> dict[str, int]:
    """Return the rectangle of the heaviest cell in image pixels."""
    rows, columns = grid.shape
    row, column = divmod(int(grid.argmax()), columns)
    left, right = (round(size[0] * edge / columns) for edge in (column, column + 1))
    top, bottom = (round(size[1] * edge / rows) for edge in (row, row + 1))
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


def _round_grid(grid: torch.Tensor) -> list[list[float]]:
    return [[round(weight, 5) for weight in row] for row in grid.tolist()]

"""JSON of captions, explanations and errors."""

import pytest
import torch
from PIL import Image

from handler.captioner import Caption
from handler.errors import EmptyBody, InvalidImage
from handler.generation import GenerationConfig
from handler.serving.image_task import ImageResult
from handler.serving.messages import ExplainOptions, ImageRequest, MultiImageRequest, SingleImageRequest
from handler.serving.responses import captions_to_json, encode_response, explanations_to_json, predict

MODEL = {"name": "captioner", "version": "1.0", "digest": "sha256:0"}
DOG = {"caption": "a dog"}
ERROR = {"code": 422, "type": "InvalidImage", "message": "No image."}
INVALID, EMPTY = InvalidImage("No image."), EmptyBody("Empty.")


def caption(attributions: torch.Tensor | None = None) -> Caption:
    return Caption("a b c", -1.0, ["a", "b", "c"], [-1.0, -0.1234567, -2.0, -1.0], attributions)


@pytest.mark.parametrize(
    ("request_type", "predictions", "status", "content"),
    [
        (SingleImageRequest, [DOG], 200, DOG | {"model": MODEL}),
        (SingleImageRequest, [INVALID], 422, ERROR),
        (MultiImageRequest, [DOG, INVALID], 200, {"predictions": [DOG, ERROR], "model": MODEL}),
        (MultiImageRequest, [INVALID], 422, {"predictions": [ERROR], "model": MODEL}),
    ],
)
def test_encode_response_has_the_form_of_its_request(request_type, predictions, status, content):
    encoded = encode_response(request_type([]), predictions, MODEL, "r")
    assert encoded == (status, content | {"request_id": "r"})


def test_encode_response_without_a_caption_has_the_status_of_the_first_error():
    assert encode_response(MultiImageRequest([]), [EMPTY, INVALID], MODEL, "r")[0] == 400


def test_captions_to_json_rounds_numbers_and_leaves_out_what_is_missing():
    content = captions_to_json([caption()], seed=None)
    described = {"caption": "a b c", "score": -1.0, "tokens": ["a", "b", "c"]}
    assert content == {
        "caption": "a b c",
        "captions": [described | {"token_logprobs": [-1.0, -0.12346, -2.0, -1.0]}],
    }
    attributions = torch.full((3, 1, 2), 0.5)
    content = captions_to_json([caption(attributions)], seed=7)
    assert content["seed"] == 7
    assert content["captions"][0]["attention"] == [[[0.5, 0.5]]] * 3


def test_explanations_to_json_gives_peaks_in_image_pixels():
    """A grid of 3 × 3 over 100 × 50 pixels: columns end at 33, 67, 100, rows at 17, 33, 50."""
    attributions = torch.zeros(3, 3, 3)
    attributions[0, 0, 0] = attributions[1, 1, 2] = attributions[2, 2, 1] = 1
    content = explanations_to_json([caption(attributions)], None, "attention", (100, 50))
    words = content["captions"][0]["words"]
    assert [tuple(word["peak"].values()) for word in words] == [(0, 0, 33, 17), (67, 17, 33, 16), (33, 33, 34, 17)]
    assert [word["entropy"] for word in words] == [0, 0, 0]
    assert content["explanation"] == {
        "method": "attention",
        "rows": 3,
        "columns": 3,
        "picture": {"width": 100, "height": 50},
    }


def result(explain: ExplainOptions | None) -> ImageResult:
    request = ImageRequest(b"x", GenerationConfig(), explain)
    return ImageResult(
        request, [caption(torch.full((3, 2, 2), 0.25))], size=(100, 50), thumbnail=Image.new("RGB", (100, 50))
    )


@pytest.mark.parametrize(
    ("overlay", "explain", "expected"),
    [
        (False, None, {"caption", "captions"}),
        (False, ExplainOptions("attention"), {"caption", "captions", "explanation"}),
        (True, ExplainOptions("attention"), {"caption", "captions", "explanation", "overlay"}),
        (False, ExplainOptions("attention", True), {"caption", "captions", "explanation", "overlay"}),
    ],
)
def test_predict_has_what_the_request_asks_for(overlay, explain, expected):
    assert predict(result(explain), overlay).keys() == expected


def test_predict_with_a_figure_that_fails_is_an_internal_error(monkeypatch):
    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr("handler.serving.responses.draw_figure", fail)
    assert predict(result(ExplainOptions("attention")), overlay=True).type == "InternalError"
    assert "explanation" in predict(result(ExplainOptions("attention")))

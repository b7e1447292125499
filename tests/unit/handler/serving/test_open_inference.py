"""The Open Inference Protocol: requests decoded, responses encoded."""

import base64
import json

import pytest

from handler.errors import EmptyBody, InvalidImage, MalformedJSON, OptionOutOfRange, TooManyImages, UnknownOption
from handler.generation import GenerationConfig
from handler.serving.image_parsing import ParseContext
from handler.serving.messages import ImageRequest
from handler.serving.open_inference import OpenInferenceRequest, encode_response
from handler.serving.parsing import parse_request
from handler.serving.settings import Settings

DEFAULTS = GenerationConfig()
ENCODED = base64.b64encode(b"image").decode()
TENSOR = {"name": "image", "shape": [2], "datatype": "BYTES", "data": [ENCODED, ENCODED]}
BEAMS = {"name": "beam_size", "shape": [1], "datatype": "INT32"}


@pytest.mark.parametrize(
    ("fields", "items"),
    [
        ({"inputs": [TENSOR], "id": "a"}, [DEFAULTS, DEFAULTS]),
        ({"inputs": [TENSOR | {"shape": [1, 2], "data": [[ENCODED, ENCODED]]}], "id": "a"}, [DEFAULTS, DEFAULTS]),
        (
            {"inputs": [TENSOR | {"parameters": {"beam_size": 2, "content_type": "base64"}}],
             "parameters": {"beam_size": 3, "max_length": 7}, "id": "a"},
            [GenerationConfig(beam_size=2, max_length=7)] * 2,
        ),
        ({"inputs": [TENSOR | {"shape": [2, 1], "data": [[ENCODED], [ENCODED]]}], "id": "a"}, [DEFAULTS, DEFAULTS]),
        ({"inputs": [TENSOR | {"shape": -1}], "id": "a"}, [DEFAULTS, DEFAULTS]),
        ({"inputs": [TENSOR | {"shape": [-1]}], "id": "a"}, [DEFAULTS, DEFAULTS]),
        ({"inputs": [TENSOR | {"shape": [-1, 1]}], "id": "a"}, [DEFAULTS, DEFAULTS]),
        ({"inputs": [TENSOR | {"shape": -1, "data": ENCODED}], "id": "a"}, [DEFAULTS]),
        ({"inputs": [TENSOR | {"shape": 2}], "id": "a", "model_name": "captioner"}, [DEFAULTS, DEFAULTS]),
        ({"inputs": [TENSOR], "id": "a", "parameters": {"binary_data_output": True}}, [DEFAULTS, DEFAULTS]),
        ({"inputs": [TENSOR, BEAMS | {"data": [2]}], "id": "a"}, [GenerationConfig(beam_size=2)] * 2),
        ({"inputs": [BEAMS | {"data": 2}, TENSOR], "id": "a"}, [GenerationConfig(beam_size=2)] * 2),
        ({"inputs": [TENSOR, BEAMS | {"data": [99]}], "id": "a"}, [OptionOutOfRange, OptionOutOfRange]),
        ({"inputs": [TENSOR, BEAMS | {"data": [1, 2]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR, BEAMS | {"data": [1], "shape": [2]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR, BEAMS | {"name": "beams", "data": [1]}], "id": "a"}, [UnknownOption, UnknownOption]),
        ({"inputs": [BEAMS | {"data": [1]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"parameters": {"content_type": "np"}}], "id": "a"}, [OptionOutOfRange]),
        ({"inputs": [TENSOR | {"parameters": {"binary_data_size": 9}}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"shape": [-1, -1]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"shape": [-1, 3]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"shape": None}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"data": [ENCODED, "§"]}], "id": "a"}, [DEFAULTS, MalformedJSON]),
        ({"inputs": [TENSOR | {"data": [ENCODED, 7]}], "id": "a"}, [DEFAULTS, EmptyBody]),
        ({"inputs": [], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR, TENSOR], "id": "a"}, [MalformedJSON]),
        ({"inputs": [7], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"datatype": "FP32"}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"shape": [3]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"shape": [-1, -2]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"shape": [True, 2]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"data": []}], "id": "a"}, [EmptyBody]),
        ({"inputs": [TENSOR | {"shape": [9], "data": [ENCODED] * 9}], "id": "a"}, [TooManyImages]),
        ({"inputs": [TENSOR], "beam_size": 3, "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "parameters": [], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "parameters": {"beams": 3}, "id": "a"}, [UnknownOption, UnknownOption]),
        ({"inputs": [TENSOR | {"shape": [2] + [1] * 8}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"shape": [2, 10**400]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "outputs": [{"name": "caption"}, {"name": "caption"}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"name": 7}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "parameters": {"stream": True}, "id": "a"}, [OptionOutOfRange]),
        ({"inputs": [TENSOR], "outputs": [{"name": "logits"}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "outputs": 7, "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "outputs": [{"name": {}}], "id": "a"}, [MalformedJSON]),
    ],
)  # fmt: skip
def test_decode_request_returns_images_or_errors(fields, items):
    request = parse_request({"body": fields}, "application/json", ParseContext(DEFAULTS, Settings(max_images=8)))
    assert isinstance(request, OpenInferenceRequest)
    assert request.id == "a"
    expected = [ImageRequest(b"image", item) if isinstance(item, GenerationConfig) else item for item in items]
    assert [type(item) if isinstance(item, Exception) else item for item in request.images] == expected


def test_decode_request_for_explanations_is_malformed():
    request = parse_request({"body": {"inputs": [TENSOR], "id": "a"}}, "", ParseContext(DEFAULTS), explain=True)
    assert isinstance(request, OpenInferenceRequest)
    assert request.id == "a"
    assert [type(image) for image in request.images] == [MalformedJSON]


MODEL = {"name": "captioner", "version": "1.0", "digest": "sha256:0"}
METADATA = {
    "model_name": "captioner",
    "model_version": "1.0",
    "parameters": {"digest": "sha256:0", "request_id": "r"},
}
ERROR = {"code": 422, "type": "InvalidImage", "message": "No image."}


def test_encode_response_has_an_element_per_image():
    request = OpenInferenceRequest([], id="7")
    status, content = encode_response(request, [{"caption": "a dog"}, InvalidImage("No image.")], MODEL, "r")
    captions = {"name": "caption", "datatype": "BYTES", "shape": [2], "data": ["a dog", ""]}
    responses = {"name": "response", "datatype": "BYTES", "shape": [2]}
    responses["data"] = [json.dumps({"caption": "a dog"}), json.dumps(ERROR)]
    assert (status, content) == (200, METADATA | {"id": "7", "outputs": [captions, responses]})


def test_encode_response_has_the_requested_outputs_only():
    request = OpenInferenceRequest([], outputs=["response"])
    _, content = encode_response(request, [{"caption": "a dog"}], MODEL, "r")
    assert [output["name"] for output in content["outputs"]] == ["response"]
    assert "id" not in content


def test_encode_response_without_a_caption_is_the_first_error():
    request = OpenInferenceRequest([], id="7")
    status, content = encode_response(request, [InvalidImage("No image."), EmptyBody("Empty.")], MODEL, "r")
    assert (status, content) == (422, {"error": "No image.", "id": "7", "request_id": "r"} | ERROR)


def test_encode_response_over_grpc_has_all_fields_that_torchserve_reads():
    """It ends the worker if one is missing, for an error and for a request without an id, too."""
    status, content = encode_response(OpenInferenceRequest([]), [InvalidImage("No image.")], MODEL, "r", is_http=False)
    assert status == 422
    assert content["id"] == ""
    assert [output["data"] for output in content["outputs"]] == [[""], [json.dumps(ERROR)]]
    assert content == METADATA | {"id": "", "outputs": content["outputs"]}

"""Open Inference Protocol (V2): decode requests, encode responses, and their OpenAPI schemas.

A BYTES tensor of images goes in, BYTES tensors with one element per image come out. `caption` holds the captions, empty
for an error; `response` holds the whole response for each image as JSON text.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handler.errors import EmptyBody, MalformedJSON, RequestError
from handler.generation import GENERATION_OPTIONS
from handler.serving.image_parsing import ParseContext, check_num_images, parse_images, reject_stream
from handler.serving.json_schema import (
    BASE64,
    INTEGER,
    STRING,
    Schema,
    array_of,
    nullable,
    object_of,
    ref,
    refs,
)
from handler.serving.messages import ImageRequest, InferenceRequest
from handler.serving.option_parsing import as_str, format_value
from handler.serving.responses import Prediction, encode_predictions, overall_status

OUTPUTS = ("caption", "response")  # names of the output tensors
MAX_DIMENSIONS = 8  # of a tensor


@dataclass(frozen=True)
class OpenInferenceRequest(InferenceRequest):
    """Request of the Open Inference Protocol.

    Attributes:
        id: Request id set by the client; empty if there is none.
        outputs: Names of the requested output tensors.
    """

    id: str = ""
    outputs: Sequence[str] = OUTPUTS


def decode_request(fields: dict[str, Any], context: ParseContext, *, explain: bool) -> OpenInferenceRequest:
    """Decode a request; see `parsing.parse_request`."""
    request_id = as_str(fields.get("id"))
    try:
        if explain:
            raise MalformedJSON("Explanations do not accept 'inputs'. Send 'image', 'images' or 'instances'.")
        images = _parse_inputs(fields, context)
        return OpenInferenceRequest(images, id=request_id, outputs=_parse_outputs(fields.get("outputs")))
    except RequestError as error:
        return OpenInferenceRequest([error], id=request_id)


def _parse_inputs(fields: dict[str, Any], context: ParseContext) -> list[ImageRequest | RequestError]:
    if unknown := sorted(fields.keys() - {"id", "inputs", "outputs", "parameters"}):
        raise MalformedJSON(
            f"Unknown field '{format_value(unknown[0])}' in an Open Inference request. Send options in 'parameters'."
        )
    if not isinstance(fields.get("id"), str | bytes | bytearray | None):
        raise MalformedJSON("'id' must be a string.")
    tensors = fields["inputs"]
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        raise MalformedJSON("'inputs' must be a list of one tensor that holds the images.")
    [tensor] = tensors
    images = _parse_tensor(tensor)
    check_num_images(images, context.settings.max_images)
    options: dict[str, Any] = {}
    for parameters in (fields.get("parameters"), tensor.get("parameters")):
        if not isinstance(parameters, dict | None):
            raise MalformedJSON("'parameters' must be an object with options.")
        options |= parameters or {}
    options.pop("content_type", None)  # "base64", if the client says so
    reject_stream(options)
    return parse_images([options | {"image": image} for image in images], context, explain=False)


def _parse_tensor(tensor: dict[str, Any]) -> list[Any]:
    """Return the elements of a BYTES tensor, whose data may be nested or flat."""
    if not isinstance(tensor.get("name", ""), str):
        raise MalformedJSON("The 'name' of the tensor must be a string.")
    if tensor.get("datatype") != "BYTES":
        raise MalformedJSON("The 'datatype' of the tensor must be BYTES, with images in base64.")
    data, shape = tensor.get("data"), tensor.get("shape")
    for _ in range(MAX_DIMENSIONS - 1):
        if isinstance(data, list) and any(isinstance(part, list) for part in data):
            data = [element for part in data for element in (part if isinstance(part, list) else [part])]
    if not isinstance(data, list) or not data:
        raise EmptyBody("No image in the request. Send a list of images in base64 as the 'data' of the tensor.")
    if not _fits(shape, len(data)):
        raise MalformedJSON(
            f"The 'shape' of the tensor does not fit its data: the product must be {len(data)}, its number of elements."
        )
    return data


def _fits(shape: object, num_elements: int) -> bool:
    if not isinstance(shape, list) or not 0 < len(shape) <= MAX_DIMENSIONS:
        return False
    # Each size is bounded first: the product of huge integers takes long.
    if not all(type(size) is int and 0 < size <= num_elements for size in shape):
        return False
    return math.prod(shape) == num_elements


def _parse_outputs(requested: object) -> tuple[str, ...]:
    if requested is None:
        return OUTPUTS
    listed = requested if isinstance(requested, list) else []
    names: list[Any] = [output.get("name") if isinstance(output, dict) else None for output in listed]
    if not names or any(name not in OUTPUTS for name in names) or len(names) > len(set(names)):
        raise MalformedJSON(f"'outputs' must name tensors, each once. Valid names: {', '.join(OUTPUTS)}.")
    return tuple(names)


def encode_response(
    request: OpenInferenceRequest, predictions: Sequence[Prediction], model: dict[str, str], request_id: str
) -> tuple[int, dict[str, Any]]:
    """Encode a response; arguments and result as for `responses.encode_response`."""
    id_field = {"id": request.id} if request.id else {}
    status = overall_status(predictions)
    contents = encode_predictions(predictions)
    if status != 200:
        first = contents[0]
        return status, {"error": first["message"]} | first | id_field | {"request_id": request_id}
    data = {
        "caption": [content.get("caption", "") for content in contents],
        "response": [json.dumps(content) for content in contents],
    }
    outputs = [
        {"name": name, "datatype": "BYTES", "shape": [len(contents)], "data": data[name]} for name in request.outputs
    ]
    return 200, {
        "model_name": model["name"],
        "model_version": model["version"],
        **id_field,
        "parameters": {"digest": model["digest"], "request_id": request_id},
        "outputs": outputs,
    }


def schemas(error: dict[str, Schema], max_images: int) -> dict[str, Schema]:
    """Describe requests and responses for the OpenAPI document.

    Args:
        error: Properties of an error.
        max_images: Most images in a request.
    """
    options = refs(GENERATION_OPTIONS)
    requested_output = object_of({"name": {"enum": list(OUTPUTS)}}, closed=False)
    input_tensor = object_of(
        {
            "name": STRING,
            "datatype": {"const": "BYTES"},
            "shape": array_of({"type": "integer", "minimum": 1}, minItems=1),
            "data": array_of(BASE64, minItems=1, maxItems=max_images),
            "parameters": nullable(ref("Parameters")),
        },
        "name",
        "parameters",
        closed=False,
    )
    output_tensor = object_of(
        {
            "name": {"enum": list(OUTPUTS)},
            "datatype": {"const": "BYTES"},
            "shape": array_of(INTEGER, minItems=1, maxItems=1),
            "data": array_of(STRING),
        }
    )
    request = {
        "id": nullable(STRING),
        "inputs": array_of(input_tensor, minItems=1, maxItems=1),
        "parameters": nullable(ref("Parameters")),
        "outputs": nullable(array_of(requested_output, minItems=1, maxItems=len(OUTPUTS))),
    }
    response = {
        "model_name": STRING,
        "model_version": STRING,
        "id": STRING,
        "parameters": object_of({"digest": STRING, "request_id": STRING}),
        "outputs": array_of(output_tensor, minItems=1),
    }
    return {
        "Parameters": object_of(options, *options),
        "InferenceRequest": object_of(request, "id", "parameters", "outputs"),
        "InferenceResponse": object_of(response, "id"),
        "InferenceError": object_of({"error": STRING} | error | {"id": STRING, "request_id": STRING}, "id"),
    }

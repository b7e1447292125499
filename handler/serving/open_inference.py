"""Open Inference Protocol (V2): decode requests, encode responses, and their OpenAPI schemas.

A BYTES tensor of images goes in, BYTES tensors with one element per image come out. `caption` holds the captions, empty
for an error; `response` holds the whole response for each image as JSON text.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handler.errors import EmptyBody, MalformedJSON, OptionOutOfRange, RequestError
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
BINARY_TENSORS = "Tensors in binary are not read. Send 'data' in base64, e.g. with binary_data=False."
REQUEST_FIELDS = {"id", "inputs", "outputs", "parameters", "model_name", "model_version"}
BINARY_OUTPUT = ("binary_data_output", "binary_data")  # parameters of the binary tensor extension


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
    if unknown := sorted(fields.keys() - REQUEST_FIELDS):
        raise MalformedJSON(
            f"Unknown field '{format_value(unknown[0])}' in an Open Inference request. Send options in 'parameters'."
        )
    if not isinstance(fields.get("id"), str | bytes | bytearray | None):
        raise MalformedJSON("'id' must be a string.")
    tensor, options = _split_tensors(fields["inputs"])
    for parameters in (fields.get("parameters"), tensor.get("parameters")):
        if not isinstance(parameters, dict | None):
            raise MalformedJSON("'parameters' must be an object with options.")
        options |= parameters or {}
    if "binary_data_size" in options:
        raise MalformedJSON(BINARY_TENSORS)
    for name in BINARY_OUTPUT:  # the response is JSON, which is the answer of a server without the extension
        options.pop(name, None)
    if (encoding := options.pop("content_type", "base64")) != "base64":
        raise OptionOutOfRange(f"content_type must be base64, not {format_value(encoding)}.")
    images = _parse_tensor(tensor)
    check_num_images(images, context.settings.max_images)
    reject_stream(options)
    return parse_images([options | {"image": image} for image in images], context, explain=False)


def _split_tensors(tensors: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensor of images, and the options that are sent as tensors of one element beside it."""
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise MalformedJSON("'inputs' must be a list of tensors: one that holds the images, and any with options.")
    names = [tensor.get("name", "") for tensor in tensors]
    if not all(isinstance(name, str) for name in names):
        raise MalformedJSON("The 'name' of a tensor must be a string.")
    others = [tensor for tensor, name in zip(tensors, names, strict=True) if name not in GENERATION_OPTIONS]
    images = [tensor for tensor in others if tensor.get("datatype") == "BYTES"] or others
    if len(images) != 1:
        raise MalformedJSON(
            "'inputs' must have one BYTES tensor that holds the images, and may have others of options."
        )
    [image] = images
    options = [(name, tensor) for tensor, name in zip(tensors, names, strict=True) if tensor is not image]
    return image, {name: _option_value(name, tensor) for name, tensor in options}


def _option_value(name: str, tensor: dict[str, Any]) -> object:
    data = _flatten(tensor.get("data"))
    if len(data) != 1 or not _fits(tensor.get("shape"), 1):
        raise MalformedJSON(f"The tensor '{format_value(name)}' of an option must have one element.")
    return data[0]


def _parse_tensor(tensor: dict[str, Any]) -> list[Any]:
    """Return the elements of a BYTES tensor, whose data may be nested or flat."""
    if tensor.get("datatype") != "BYTES":
        raise MalformedJSON(
            f"The 'datatype' of the tensor must be BYTES, not {format_value(tensor.get('datatype'))}. "
            "Send image files in base64, not pixels."
        )
    data = _flatten(tensor.get("data"))
    if not data:
        raise EmptyBody("No image in the request. Send a list of images in base64 as the 'data' of the tensor.")
    if not _fits(tensor.get("shape"), len(data)):
        raise MalformedJSON(
            f"The 'shape' of the tensor does not fit its data: the product must be {len(data)}, its number of elements."
        )
    return data


def _flatten(data: object) -> list[Any]:
    """Return the elements of nested or flat data; one that is not in a list, as the samples of KServe have it."""
    if isinstance(data, str | int | float):
        return [data]
    for _ in range(MAX_DIMENSIONS - 1):
        if isinstance(data, list) and any(isinstance(part, list) for part in data):
            data = [element for part in data for element in (part if isinstance(part, list) else [part])]
    return data if isinstance(data, list) else []


def _fits(shape: object, num_elements: int) -> bool:
    """Return True if a shape has so many elements. One size may be -1, for any; KServe also sends -1 for [-1]."""
    sizes = [shape] if type(shape) is int else shape
    if not isinstance(sizes, list) or not 0 < len(sizes) <= MAX_DIMENSIONS:
        return False
    # Each size is bounded first: the product of huge integers takes long.
    if not all(type(size) is int and (size == -1 or 0 < size <= num_elements) for size in sizes):
        return False
    known = math.prod(size for size in sizes if size != -1)
    return num_elements % known == 0 if sizes.count(-1) == 1 else known == num_elements and -1 not in sizes


def _parse_outputs(requested: object) -> tuple[str, ...]:
    if requested is None:
        return OUTPUTS
    listed = requested if isinstance(requested, list) else []
    names: list[Any] = [output.get("name") if isinstance(output, dict) else None for output in listed]
    if not names or any(name not in OUTPUTS for name in names) or len(names) > len(set(names)):
        raise MalformedJSON(f"'outputs' must name tensors, each once. Valid names: {', '.join(OUTPUTS)}.")
    return tuple(names)


def encode_response(
    request: OpenInferenceRequest,
    predictions: Sequence[Prediction],
    model: dict[str, str],
    request_id: str,
    *,
    is_http: bool = True,
) -> tuple[int, dict[str, Any]]:
    """Encode a response; arguments and result as for `responses.encode_response`.

    Over gRPC the response always has all fields of a success: TorchServe ends the worker if one is missing. An error
    is in the tensor `response` then.
    """
    id_field = {"id": request.id} if request.id or not is_http else {}
    status = overall_status(predictions)
    contents = encode_predictions(predictions)
    if status != 200 and is_http:
        first = contents[0]
        return status, {"error": first["message"]} | first | id_field | {"request_id": request_id}
    data = {
        "caption": [content.get("caption", "") for content in contents],
        "response": [json.dumps(content) for content in contents],
    }
    outputs = [
        {"name": name, "datatype": "BYTES", "shape": [len(contents)], "data": data[name]} for name in request.outputs
    ]
    return status, {
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
    size = {"type": "integer", "anyOf": [{"const": -1}, {"minimum": 1}]}
    requested_output = object_of({"name": {"enum": list(OUTPUTS)}}, closed=False)
    input_tensor = object_of(
        {
            "name": STRING,
            "datatype": {"const": "BYTES"},
            "shape": {"anyOf": [{"const": -1}, array_of(size, minItems=1)]},
            "data": {"anyOf": [BASE64, array_of(BASE64, minItems=1, maxItems=max_images)]},
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

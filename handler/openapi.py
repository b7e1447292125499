"""The OpenAPI 3.1 document of the endpoint, made from the same tables that requests are checked against."""

from dataclasses import asdict
from typing import Any

from handler.errors import (
    EmptyBody,
    InternalError,
    InvalidImage,
    MalformedJSON,
    OptionOutOfRange,
    RequestError,
    TooLarge,
    TooManyImages,
    TooManyPixels,
    UnknownOption,
    UnsupportedMedia,
)
from handler.options import FLAGS, RANGES
from handler.request import Limits, Tensors
from handler.search import COLDEST, SearchOptions

ERRORS: tuple[type[RequestError], ...] = (
    EmptyBody, MalformedJSON, UnknownOption, OptionOutOfRange, TooLarge, TooManyImages, TooManyPixels,
    UnsupportedMedia, InvalidImage, InternalError,
)  # fmt: skip

DESCRIPTIONS = {
    "beam_size": "Hypotheses kept at each step; 1 is greedy search.",
    "length_penalty": "Captions are ranked by log-probability / tokens^length_penalty: 0 by the sum, 1 by the mean.",
    "min_length": "Words a caption has at least.",
    "max_length": "Words a caption has at most.",
    "num_captions": "Captions returned, the best first; of a beam at most beam_size.",
    "no_repeat_ngram": "No run of so many words stands twice in a caption; 0 allows all.",
    "temperature": "Above 0, words are drawn and not searched for: the higher, the more varied.",
    "top_p": "Words are drawn from the likeliest that hold this share of the probability; needs a temperature.",
    "seed": "Of the draws: the same seed gives the same captions. Left out, one is drawn and stands in the answer.",
    "attention": "Adds each word's attention over the grid.",
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="  # a grey PNG
BASE64 = {"type": "string", "contentEncoding": "base64", "minLength": 1, "examples": [PIXEL]}


def openapi(model: dict[str, str], defaults: SearchOptions, limits: Limits) -> dict[str, Any]:
    """The document, for a model of this name, version and decoding defaults."""
    name = model["name"]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": name,
            "version": model["version"],
            "summary": "A picture goes in, a sentence comes out.",
            "description": f"Model {model['digest']}. A picture has {limits.max_bytes} bytes and {limits.max_pixels} "
            f"pixels at most; a request {limits.max_images} pictures.",
        },
        "paths": {
            f"/predictions/{name}": {
                "post": _native("predict", limits),
                "put": _native("predictPut", limits),
                "get": {
                    "operationId": "describe",
                    "summary": "This document, where JSON is accepted by its name.",
                    "responses": {
                        "200": _content("This document.", {"type": "object", "required": ["openapi"]}),
                        "400": _content("JSON was not accepted by its name.", _ref("Error")),
                    },
                },
            },
            f"/v1/models/{name}:predict": {
                "post": _operation("predictV1", {"application/json": _ref("Several")}, {"200": _ref("Predictions")})
            },
            f"/v2/models/{name}/infer": {
                "post": _operation(
                    "inferV2", {"application/json": _ref("InferenceRequest")}, {"200": _ref("InferenceResponse")},
                    {"anyOf": [_ref("InferenceError"), _ref("Error")]},  # the second where `inputs` is missing
                )
            },
        },
        "components": {"schemas": _schemas(defaults, limits)},
    }  # fmt: skip


def _operation(
    name: str, bodies: dict[str, Any], answers: dict[str, Any], error: dict[str, Any] | None = None
) -> dict[str, Any]:
    codes: dict[int, list[str]] = {}
    for kind in ERRORS:
        codes.setdefault(kind.code, []).append(kind.__name__)
    # Where none of several pictures could be captioned, the answer lists what was wrong with each.
    refused = error or {"anyOf": [_ref("Error"), _ref("Predictions")]}
    responses = {str(code): _content(f"{', '.join(names)}.", refused) for code, names in codes.items()}
    responses["413"]["description"] += " TorchServe itself refuses what is larger still, without a body."
    responses |= {code: _content("Captions.", schema) for code, schema in answers.items()}
    responses["503"] = {"description": "The queue is full: try again after a pause."}
    content = {media: {"schema": schema} for media, schema in bodies.items()}
    return {"operationId": name, "requestBody": {"required": True, "content": content}, "responses": responses}


def _native(name: str, limits: Limits) -> dict[str, Any]:
    operation = _operation(name, _native_bodies(limits), {"200": {"oneOf": [_ref("Captions"), _ref("Predictions")]}})
    done = operation["responses"]["200"]
    done["description"] += " With `stream` an event `token` a word, then the event `response` with all."
    part = {"event": {"enum": ["token", "response", "error"]}, "data": {"type": "string"}}  # each event, as parsed
    done["content"]["text/event-stream"] = {"schema": _object(part)}
    return operation


def _native_bodies(limits: Limits) -> dict[str, Any]:
    form = _object({"image": {"type": "string", "contentMediaType": "image/*"}} | _refs(), *_refs())
    raw = {"description": f"An image file's bytes: JPEG, PNG, WebP, GIF or BMP, {limits.max_bytes} at most."}
    return {
        "image/*": raw,
        "application/octet-stream": raw,
        "multipart/form-data": form,
        "application/json": {"oneOf": [_ref("One"), _ref("Several")]},
    }


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _refs() -> dict[str, Any]:
    return {name: _ref(name) for name in (*RANGES, *FLAGS, "stream")}


def _options(defaults: SearchOptions) -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    chosen = asdict(defaults)
    for name, (low, high) in RANGES.items():
        kind = "integer" if isinstance(low, int) else "number"
        schemas[name] = {"type": kind, "minimum": low, "maximum": high}
    high = RANGES["temperature"][1]
    schemas["temperature"] = {"anyOf": [{"const": 0}, {"type": "number", "minimum": COLDEST, "maximum": high}]}
    for name in FLAGS:
        schemas[name] = {"type": "boolean"}
    for name, schema in schemas.items():
        schema["description"] = DESCRIPTIONS[name]
        if chosen[name] is not None:
            schema["default"] = chosen[name]
    schemas["stream"] = {
        "type": "boolean", "default": False,
        "description": "Answers with server-sent events: each word as soon as it is certain, then the whole answer.",
    }  # fmt: skip
    return schemas


def _object(properties: dict[str, Any], *optional: str, closed: bool = True) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required} | (
        {"additionalProperties": False} if closed else {}
    )


def _list(items: dict[str, Any], **bounds: int) -> dict[str, Any]:
    return {"type": "array", "items": items} | bounds


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _schemas(defaults: SearchOptions, limits: Limits) -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "number"}
    of_one = {name: _ref(name) for name in (*RANGES, *FLAGS)}
    several = _list({"anyOf": [BASE64, _ref("Item")]}, minItems=1, maxItems=limits.max_images)
    captions = {"caption": text, "captions": _list(_ref("Caption"), minItems=1), "seed": _ref("seed")}
    about = {"model": _ref("Model"), "request_id": text}
    error = {
        "code": {"enum": sorted({kind.code for kind in ERRORS})},
        "type": {"enum": [kind.__name__ for kind in ERRORS]},
        "message": text,
    }
    wanted = _object({"name": {"enum": list(Tensors.OUTPUTS)}}, closed=False)
    output = {
        "name": {"enum": list(Tensors.OUTPUTS)},
        "datatype": {"const": "BYTES"},
        "shape": _list({"type": "integer"}, minItems=1, maxItems=1),
        "data": _list(text),
    }
    tensor = {
        "name": text,
        "datatype": {"const": "BYTES"},
        "shape": _list({"type": "integer", "minimum": 1}, minItems=1),
        "data": _list(BASE64, minItems=1, maxItems=limits.max_images),
        "parameters": _or_null(_ref("Parameters")),
    }
    return _options(defaults) | {
        "One": _object({"image": BASE64} | _refs(), *_refs()),
        # `b64` is what TensorFlow Serving calls it.
        "Item": {"oneOf": [_object({name: BASE64} | of_one, *of_one) for name in ("image", "b64")]},
        "Several": {
            "oneOf": [
                _object({field: several} | of_one, *of_one) for field in ("images", "instances")
            ]
        },
        "Parameters": _object(of_one, *of_one),
        "InferenceRequest": _object(
            {
                "id": _or_null(text),
                "inputs": _list(_object(tensor, "name", "parameters", closed=False), minItems=1, maxItems=1),
                "parameters": _or_null(_ref("Parameters")),
                "outputs": _or_null(_list(wanted, minItems=1, maxItems=len(Tensors.OUTPUTS))),
            },
            "id", "parameters", "outputs",
        ),
        "Caption": _object(
            {
                "caption": text,
                "score": number,
                "tokens": _list(text),
                "token_logprobs": _list(number),
                "attention": _list(_list(_list(number))),
            },
            "attention",
        ),
        "Captions": _object(captions | about, "seed"),
        "Predictions": _object(
            {"predictions": _list({"oneOf": [_object(captions, "seed"), _object(error)]}, minItems=1)} | about
        ),
        "Model": _object({"name": text, "version": text, "digest": text}),
        "Error": _object(error | {"request_id": text}),
        "InferenceResponse": _object(
            {
                "model_name": text,
                "model_version": text,
                "id": text,
                "parameters": _object({"digest": text, "request_id": text}),
                "outputs": _list(_object(output), minItems=1),
            },
            "id",
        ),
        "InferenceError": _object({"error": text} | error | {"id": text, "request_id": text}, "id"),
    }  # fmt: skip

"""The OpenAPI 3.1 document of the endpoint, made from the same tables that requests are checked against."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from handler.errors import (
    EmptyBody,
    InternalError,
    InvalidImage,
    MalformedJSON,
    OptionOutOfRange,
    OutOfMemory,
    RequestError,
    TooLarge,
    TooManyImages,
    TooManyPixels,
    UnknownOption,
    UnsupportedMedia,
)
from handler.generation import GENERATION_OPTIONS, GenerationConfig
from handler.serving.open_inference import Tensors
from handler.serving.options import FLAGS, RANGES
from handler.serving.parsing import Limits, ParseContext
from handler.serving.responses import HTML, JSON

ERRORS: tuple[type[RequestError], ...] = (
    EmptyBody, MalformedJSON, UnknownOption, OptionOutOfRange, TooLarge, TooManyImages, TooManyPixels,
    UnsupportedMedia, InvalidImage, InternalError, OutOfMemory,
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


def openapi(model: dict[str, str], asking: ParseContext) -> dict[str, Any]:
    """The document, for a model of this name and version, that reads requests so."""
    limits = asking.limits
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
                    "summary": "The demo page where HTML is accepted by its name, this document where JSON is.",
                    "responses": {
                        "200": {"description": "One of them.", "content": {
                            HTML: {"schema": {"type": "string"}},
                            JSON: {"schema": {"type": "object", "required": ["openapi"]}},
                        }},
                        "400": _content("Neither was accepted by its name.", _ref("Error")),
                    },
                },
            },
            f"/explanations/{name}": {"post": _explain(limits)},
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
        "components": {"schemas": _schemas(asking)},
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


def _explain(limits: Limits) -> dict[str, Any]:
    bodies = _native_bodies(limits, ("method", "overlay"), "Explain")
    operation = _operation("explain", bodies, {"200": {"oneOf": [_ref("Explanations"), _ref("Predictions")]}})
    operation["responses"]["200"]["content"]["image/png"] = {
        "schema": {"description": "The figure alone, a panel a word, where image/png is accepted by its name."}
    }
    return operation


def _native_bodies(limits: Limits, more: Sequence[str] = ("stream",), json: str = "") -> dict[str, Any]:
    """The bodies of a request.

    Args:
        limits: on pictures.
        more: options beside those of the search.
        json: what the names of JSON's schemas begin with.
    """
    options = _refs(more)
    form = _object({"image": {"type": "string", "contentMediaType": "image/*"}} | options, *options)
    raw = {"description": f"An image file's bytes: JPEG, PNG, WebP, GIF or BMP, {limits.max_bytes} at most."}
    return {
        "image/*": raw,
        "application/octet-stream": raw,
        "multipart/form-data": form,
        "application/json": {"oneOf": [_ref(f"{json}One"), _ref(f"{json}Several")]},
    }


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _refs(more: Sequence[str] = ()) -> dict[str, Any]:
    return {name: _ref(name) for name in (*RANGES, *FLAGS, *more)}


def _options(defaults: GenerationConfig, methods: Sequence[str]) -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    chosen = asdict(defaults)
    for name, (low, high) in RANGES.items():
        kind = "integer" if isinstance(low, int) else "number"
        schemas[name] = {"type": kind, "minimum": low, "maximum": high}
    warm = {"type": "number", "minimum": GENERATION_OPTIONS["temperature"].min, "maximum": RANGES["temperature"][1]}
    schemas["temperature"] = {"anyOf": [{"const": 0}, warm]}
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
    schemas["method"] = {
        "enum": list(methods), "default": methods[0], "description": "How a word is traced back to the picture.",
    }  # fmt: skip
    schemas["overlay"] = {
        "type": "boolean", "default": False, "description": "Adds the figure, a panel a word, as PNG in base64.",
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


def _asked(prefix: str, max_images: int, alone: Sequence[str], each: Sequence[str]) -> dict[str, Any]:
    """JSON's requests: one picture, with the options `alone` beside the search's, and several, with `each`."""
    of_one, of_each = _refs(alone), _refs(each)
    several = _list({"anyOf": [BASE64, _ref(f"{prefix}Item")]}, minItems=1, maxItems=max_images)
    return {
        f"{prefix}One": _object({"image": BASE64} | of_one, *of_one),
        # `b64` is what TensorFlow Serving calls it.
        f"{prefix}Item": {"oneOf": [_object({name: BASE64} | of_each, *of_each) for name in ("image", "b64")]},
        f"{prefix}Several": {
            "oneOf": [_object({field: several} | of_each, *of_each) for field in ("images", "instances")]
        },
    }


def _explained(captions: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """The answer's schemas of an explanation."""
    text, number, whole = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    rectangle = dict.fromkeys(("x", "y", "width", "height"), whole)
    word = {"token": text, "weights": _list(_list(number)), "entropy": number, "peak": _object(rectangle)}
    size = _object({"width": whole, "height": whole})
    about_it = {"method": text, "rows": whole, "columns": whole, "picture": size}
    explained = captions | {"explanation": _object(about_it), "overlay": {"type": "string"}}
    return {
        "Word": _object(word),
        "Explained": _object(explained, "seed", "overlay"),
        "Explanations": _object(explained | about, "seed", "overlay"),
    }


def _schemas(asking: ParseContext) -> dict[str, Any]:
    limits = asking.limits
    text, number = {"type": "string"}, {"type": "number"}
    of_one = _refs()
    captions = {"caption": text, "captions": _list(_ref("Caption"), minItems=1), "seed": _ref("seed")}
    about = {"model": _ref("Model"), "request_id": text}
    error = {
        "code": {"enum": sorted({kind.code for kind in ERRORS})},
        "type": {"enum": [kind.__name__ for kind in ERRORS]},
        "message": text,
    }
    results = [_object(captions, "seed"), _ref("Explained"), _object(error)]
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
    return {
        **_options(asking.defaults, asking.methods),
        **_asked("", limits.max_images, ("stream",), ()),
        **_asked("Explain", min(limits.max_images, limits.max_explanations), ("method", "overlay"), ("method",)),
        **_explained(captions, about),
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
                "words": _list(_ref("Word")),
            },
            "attention", "words",
        ),
        "Captions": _object(captions | about, "seed"),
        "Predictions": _object({"predictions": _list({"oneOf": results}, minItems=1)} | about),
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

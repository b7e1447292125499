"""OpenAPI 3.1 document of the endpoint, derived from the tables that requests are checked against."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from handler.errors import REQUEST_ERRORS
from handler.generation import GENERATION_OPTIONS, GenerationConfig
from handler.generation.options import GenerationOption
from handler.image import FORMAT_NAMES
from handler.serving import open_inference
from handler.serving.image_parsing import ParseContext
from handler.serving.json_schema import (
    BASE64,
    INTEGER,
    NUMBER,
    STRING,
    Schema,
    array_of,
    object_of,
    ref,
    refs,
)
from handler.serving.messages import EVENT_STREAM, HTML, JSON, PNG
from handler.serving.settings import Settings

STREAM_OPTIONS = ("stream",)
EXPLAIN_OPTIONS = ("method", "overlay")


def openapi(model: dict[str, str], context: ParseContext) -> dict[str, Any]:
    """Build the document.

    Args:
        model: Name, version and digest of the model.
        context: Defaults, limits and explanation methods that requests are parsed with.
    """
    settings = context.settings
    return {
        "openapi": "3.1.0",
        "info": {
            "title": model["name"],
            "version": model["version"],
            "summary": "Captions images: an image goes in, a sentence comes out.",
            "description": f"Model {model['digest']}. Limits: {settings.max_bytes} bytes per image; "
            f"{settings.max_images} images and {settings.max_pixels} pixels per request.",
        },
        "paths": _paths(model["name"], settings),
        "components": {"schemas": _schemas(context)},
    }


def _paths(name: str, settings: Settings) -> dict[str, Any]:
    return {
        f"/predictions/{name}": {
            "post": _predict_operation("predict", settings),
            "put": _predict_operation("predictPut", settings),
            "get": _document_operation(),
        },
        f"/explanations/{name}": {"post": _explain_operation(settings)},
        f"/v1/models/{name}:predict": {"post": _operation("predictV1", {JSON: ref("Several")}, ref("Predictions"))},
        f"/v2/models/{name}/infer": {
            "post": _operation(
                "inferV2",
                {JSON: ref("InferenceRequest")},
                ref("InferenceResponse"),
                {"anyOf": [ref("InferenceError"), ref("Error")]},  # `Error` if `inputs` is missing
            )
        },
    }


def _operation(name: str, bodies: dict[str, Schema], success: Schema, error: Schema | None = None) -> dict[str, Any]:
    """Describe an operation.

    Args:
        name: Operation id.
        bodies: Schema of the request body for each media type.
        success: Schema of the response with status 200.
        error: Schema of other responses, if it is not that of the native protocol.
    """
    names: dict[int, list[str]] = {}
    for kind in REQUEST_ERRORS:
        names.setdefault(kind.code, []).append(kind.__name__)
    # If no image of several has a caption, the response lists the error of each.
    error_schema = error or {"anyOf": [ref("Error"), ref("Predictions")]}
    responses = {str(code): _json_response(f"{', '.join(kinds)}.", error_schema) for code, kinds in names.items()}
    responses["413"]["description"] += " TorchServe refuses even larger requests without a body."
    responses["200"] = _json_response("Captions.", success)
    responses["503"] = {"description": "The queue is full. Retry after a pause."}
    content = {media_type: {"schema": schema} for media_type, schema in bodies.items()}
    return {"operationId": name, "requestBody": {"required": True, "content": content}, "responses": responses}


def _document_operation() -> dict[str, Any]:
    content = {HTML: {"schema": STRING}, JSON: {"schema": {"type": "object", "required": ["openapi"]}}}
    return {
        "operationId": "describe",
        "summary": f"The demo page if Accept names {HTML}, this document if it names {JSON}.",
        "responses": {
            "200": {"description": "The page or the document.", "content": content},
            "400": _json_response("Accept names neither.", ref("Error")),
        },
    }


def _predict_operation(name: str, settings: Settings) -> dict[str, Any]:
    bodies = _native_bodies(settings, STREAM_OPTIONS)
    operation = _operation(name, bodies, {"oneOf": [ref("Captions"), ref("Predictions")]})
    success = operation["responses"]["200"]
    success["description"] += " With `stream`: one `token` event per token, then a `response` event with all captions."
    event = {"event": {"enum": ["token", "response", "error"]}, "data": STRING}  # as an event-stream parser returns it
    success["content"][EVENT_STREAM] = {"schema": object_of(event)}
    return operation


def _explain_operation(settings: Settings) -> dict[str, Any]:
    bodies = _native_bodies(settings, EXPLAIN_OPTIONS, "Explain")
    operation = _operation("explain", bodies, {"oneOf": [ref("Explanations"), ref("Predictions")]})
    figure = {"description": f"The figure, one panel per token, if Accept names {PNG}."}
    operation["responses"]["200"]["content"][PNG] = {"schema": figure}
    return operation


def _native_bodies(settings: Settings, options: Sequence[str], prefix: str = "") -> dict[str, Schema]:
    """Describe the bodies of a native request.

    Args:
        settings: Limits.
        options: Options beside those of generation.
        prefix: Prefix of the names of the JSON schemas.
    """
    fields = refs([*GENERATION_OPTIONS, *options])
    raw = {"description": f"Bytes of an image file, at most {settings.max_bytes}: {FORMAT_NAMES}."}
    return {
        "image/*": raw,
        "application/octet-stream": raw,
        "multipart/form-data": object_of(
            {"image": {"type": "string", "contentMediaType": "image/*"}} | fields, *fields
        ),
        JSON: {"oneOf": [ref(f"{prefix}One"), ref(f"{prefix}Several")]},
    }


def _json_response(description: str, schema: Schema) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": schema}}}


def _schemas(context: ParseContext) -> dict[str, Schema]:
    settings = context.settings
    captions: dict[str, Schema] = {
        "caption": STRING,
        "captions": array_of(ref("Caption"), minItems=1),
        "seed": ref("seed"),
    }
    metadata = {"model": ref("Model"), "request_id": STRING}
    error: dict[str, Schema] = {
        "code": {"enum": sorted({kind.code for kind in REQUEST_ERRORS})},
        "type": {"enum": [kind.__name__ for kind in REQUEST_ERRORS]},
        "message": STRING,
    }
    results = [object_of(captions, "seed"), ref("Explained"), object_of(error)]
    max_explained_images = min(settings.max_images, settings.max_explanations)
    return {
        **_option_schemas(context.defaults, context.explanation_methods),
        **_request_schemas("", settings.max_images, STREAM_OPTIONS, ()),
        **_request_schemas("Explain", max_explained_images, EXPLAIN_OPTIONS, ("method",)),
        **_explanation_schemas(captions, metadata),
        **open_inference.schemas(error, settings.max_images),
        "Caption": object_of(
            {
                "caption": STRING,
                "score": NUMBER,
                "tokens": array_of(STRING),
                "token_logprobs": array_of(NUMBER),
                "attention": array_of(array_of(array_of(NUMBER))),
                "words": array_of(ref("Word")),
            },
            "attention",
            "words",
        ),
        "Captions": object_of(captions | metadata, "seed"),
        "Predictions": object_of({"predictions": array_of({"oneOf": results}, minItems=1)} | metadata),
        "Model": object_of({"name": STRING, "version": STRING, "digest": STRING}),
        "Error": object_of(error | {"request_id": STRING}),
    }


def _option_schemas(defaults: GenerationConfig, methods: Sequence[str]) -> dict[str, Schema]:
    values = asdict(defaults)
    schemas = {name: _option_schema(option, values[name]) for name, option in GENERATION_OPTIONS.items()}
    return schemas | {
        "stream": {
            "type": "boolean",
            "default": False,
            "description": "Respond with server-sent events: each token once it is certain, then all captions.",
        },
        "method": {
            "enum": list(methods),
            "default": methods[0],
            "description": "How tokens are attributed to cells of the image.",
        },
        "overlay": {
            "type": "boolean",
            "default": False,
            "description": "Add the figure, one panel per token, as PNG in base64.",
        },
    }


def _option_schema(option: GenerationOption, default: float | None) -> Schema:
    if option.type is bool:
        schema: Schema = {"type": "boolean"}
    else:
        kind = "integer" if option.type is int else "number"
        schema = {"type": kind, "minimum": option.min, "maximum": option.max}
        if option.allow_zero:
            schema = {"anyOf": [{"const": 0}, schema]}
    schema["description"] = option.help
    return schema if default is None else schema | {"default": default}


def _request_schemas(
    prefix: str, max_images: int, single_options: Sequence[str], per_image_options: Sequence[str]
) -> dict[str, Schema]:
    """Describe JSON requests with one image and with several.

    Args:
        prefix: Prefix of the names of the schemas.
        max_images: Most images in a list.
        single_options: Options of a single image beside those of generation.
        per_image_options: Options of an image in a list beside those of generation.
    """
    single, per_image = refs([*GENERATION_OPTIONS, *single_options]), refs([*GENERATION_OPTIONS, *per_image_options])
    images = array_of({"anyOf": [BASE64, ref(f"{prefix}Item")]}, minItems=1, maxItems=max_images)
    return {
        f"{prefix}One": object_of({"image": BASE64} | single, *single),
        # TensorFlow Serving's name for bytes is `b64`.
        f"{prefix}Item": {"oneOf": [object_of({name: BASE64} | per_image, *per_image) for name in ("image", "b64")]},
        f"{prefix}Several": {
            "oneOf": [object_of({name: images} | per_image, *per_image) for name in ("images", "instances")]
        },
    }


def _explanation_schemas(captions: dict[str, Schema], metadata: dict[str, Schema]) -> dict[str, Schema]:
    rectangle = object_of(dict.fromkeys(("x", "y", "width", "height"), INTEGER))
    word = {"token": STRING, "weights": array_of(array_of(NUMBER)), "entropy": NUMBER, "peak": rectangle}
    size = object_of({"width": INTEGER, "height": INTEGER})
    explanation = object_of({"method": STRING, "rows": INTEGER, "columns": INTEGER, "picture": size})
    explained = captions | {"explanation": explanation, "overlay": STRING}
    return {
        "Word": object_of(word),
        "Explained": object_of(explained, "seed", "overlay"),
        "Explanations": object_of(explained | metadata, "seed", "overlay"),
    }

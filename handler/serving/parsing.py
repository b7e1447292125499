"""A row as TorchServe hands it over → the pictures and their options, whichever way they were asked for.

There are three ways to ask, told apart by a field's name: `image`, one picture; `images` or `instances`, several (the
second is the field of the V1 inference protocol); `inputs`, the Open Inference Protocol's tensors (its V2).
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from handler.errors import (
    EmptyBody,
    MalformedJSON,
    OptionOutOfRange,
    RequestError,
    TooLarge,
    TooManyImages,
    UnsupportedMedia,
)
from handler.generation import GenerationConfig
from handler.image import MAX_PIXELS
from handler.serving.open_inference import Explain, Item, MultiImageRequest, Request, SingleImageRequest, Tensors
from handler.serving.options import parse_flag, parse_options, shorten

# Where one picture may stand: a raw body comes as `body`; `image` is the form's and JSON's field, and `data` what
# TorchServe's own examples call it over gRPC.
PICTURE_FIELDS = ("image", "body", "data")
MAX_DIMENSIONS = 8  # of a tensor
URL_SAFE = str.maketrans("-_", "+/")  # base64's other alphabet
NO_PICTURE = (
    "There is no picture: send an image file's bytes (curl -T photo.jpg), a form with the field 'image', "
    "or JSON with the field 'image' in base64."
)


@dataclass(frozen=True)
class Limits:
    """What a request may hold."""

    max_pixels: int = MAX_PIXELS  # width × height of all its pictures, checked before they are decoded
    max_bytes: int = 20_000_000  # of a picture's file
    max_images: int = 32  # in one request
    max_explanations: int = 10  # captions in one request: by gradients one of fifty words takes half a second


class ParseContext(NamedTuple):
    """What every picture of a request is read with.

    Attributes:
        defaults: options for what is not asked for.
        limits: on pictures and their number; pixels are not looked at here.
        methods: by which the model can explain its captions, the first one if none is named; empty where captions
            alone are asked for.
    """

    defaults: GenerationConfig
    limits: Limits = Limits()
    methods: Sequence[str] = ()


def parse_request(row: Mapping[str, object], content_type: str, asking: ParseContext) -> Request:
    """Reads a raw body, a form (multipart or gRPC's map) or a JSON object. It never raises: what is wrong is an item.

    Args:
        row: TorchServe's row: raw bodies and form fields as bytearrays, JSON already parsed, `text/*` as str.
        content_type: of the request, as sent; empty where there is none.
        asking: defaults, limits, and whether explanations are wanted.
    """
    request_type, known = SingleImageRequest, {}
    try:
        fields = _fields(row, content_type)
        if "inputs" in fields:
            request_type, known = Tensors, {"id": _text(fields.get("id"))}
            return _tensors(fields, asking)
        several = "images" in fields or "instances" in fields
        request = _several(fields, asking) if several else _one(fields, asking)
        if asking.methods:
            _check_explained(request.items, asking.limits)
        return request
    except RequestError as error:
        return request_type([error], **known)


def _fields(row: Mapping[str, object], content_type: str) -> dict[str, Any]:
    """A form's or a JSON object's fields; a raw body is the field `body`. JSON's pictures are texts, others' bytes."""
    body = row.get("body")
    if content_type.partition(";")[0].strip().lower() == "application/json" or isinstance(body, dict | list):
        body = _json(body) if isinstance(body, bytes | bytearray) else body
        if body is None or body == {}:
            raise EmptyBody("There is no picture: the JSON object has to have the field 'image', in base64.")
        if not isinstance(body, dict):
            raise MalformedJSON("The body is no JSON object with the field 'image', in base64.")
        return dict(body)
    if isinstance(body, str):
        raise UnsupportedMedia("The body is text: send an image file's bytes, a form with the field 'image', or JSON.")
    fields = dict(row)
    for name in ("images", "instances", "inputs", "parameters", "outputs"):  # in a form they are JSON texts
        if isinstance(fields.get(name), bytes | bytearray | str):
            fields[name] = _json(fields[name])
    for name in PICTURE_FIELDS:
        if isinstance(fields.get(name), str):
            raise UnsupportedMedia(f"The field '{name}' holds no image file's bytes.")
    return fields


def _json(text: bytes | bytearray | str) -> object:
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedJSON("The JSON can't be parsed.") from error


def _one(fields: dict[str, Any], asking: ParseContext) -> SingleImageRequest:
    if asking.methods:
        _refuse_stream(fields)
    stream = parse_flag("stream", fields.pop("stream", False))
    return SingleImageRequest([_item(fields, asking)], stream)


def _several(fields: dict[str, Any], asking: ParseContext) -> MultiImageRequest:
    """Each is a text in base64, or an object that may have options of its own over those beside the list."""
    if len(named := [name for name in ("images", "instances", *PICTURE_FIELDS) if name in fields]) > 1:
        raise MalformedJSON(f"The request has pictures in more than one field: {' and '.join(named)}.")
    pictures = fields.pop(named[0])
    _refuse_stream(fields)
    if not isinstance(pictures, list) or not pictures:
        raise EmptyBody(f"There is no picture: '{named[0]}' has to be a list of pictures in base64.")
    _check_count(pictures, asking.limits)
    own = [dict(picture) if isinstance(picture, dict) else {"image": picture} for picture in pictures]
    for picture in own:
        if "b64" in picture and "image" not in picture:  # TensorFlow Serving's way to write bytes
            picture["image"] = picture.pop("b64")
    if asking.methods and any(parse_flag("overlay", (fields | picture).get("overlay", False)) for picture in own):
        raise OptionOutOfRange("overlay is for one picture in the field 'image': several figures would be too much.")
    return MultiImageRequest(_items([fields | picture for picture in own], asking))


def _tensors(fields: dict[str, Any], asking: ParseContext) -> Tensors:
    if asking.methods:
        raise MalformedJSON("An explanation is asked for with 'image', 'images' or 'instances', not with 'inputs'.")
    if unknown := sorted(fields.keys() - {"id", "inputs", "outputs", "parameters"}):
        raise MalformedJSON(
            f"An Open Inference request has no field '{shorten(unknown[0])}': options stand in 'parameters'."
        )
    if not isinstance(fields.get("id"), str | bytes | bytearray | None):
        raise MalformedJSON("'id' has to be a text.")
    tensors = fields["inputs"]
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        raise MalformedJSON("'inputs' has to be a list of one tensor that holds the pictures.")
    [tensor] = tensors
    if not isinstance(tensor.get("name", ""), str):
        raise MalformedJSON("The tensor's 'name' has to be a text.")
    if tensor.get("datatype") != "BYTES":
        raise MalformedJSON("The tensor's datatype has to be BYTES: pictures in base64.")
    data, shape = tensor.get("data"), tensor.get("shape")
    for _ in range(MAX_DIMENSIONS - 1):  # nested as its shape, or flat
        if isinstance(data, list) and any(isinstance(part, list) for part in data):
            data = [one for part in data for one in (part if isinstance(part, list) else [part])]
    if not isinstance(data, list) or not data:
        raise EmptyBody("There is no picture: the tensor's 'data' has to be a list of pictures in base64.")
    sizes = shape if isinstance(shape, list) else []
    whole = 0 < len(sizes) <= MAX_DIMENSIONS and all(type(size) is int and 0 < size <= len(data) for size in sizes)
    if not whole or math.prod(sizes) != len(data):
        raise MalformedJSON(f"The tensor's shape does not fit its data, which has {len(data)} elements.")
    _check_count(data, asking.limits)
    options: dict[str, object] = {}
    for parameters in (fields.get("parameters"), tensor.get("parameters")):
        if not isinstance(parameters, dict | None):
            raise MalformedJSON("'parameters' has to be an object with options.")
        options |= parameters or {}
    options.pop("content_type", None)  # "base64", where the client says so
    _refuse_stream(options)
    items = _items([options | {"image": picture} for picture in data], asking)
    return Tensors(items, _text(fields.get("id")), _outputs(fields.get("outputs")))


def _outputs(wanted: object) -> tuple[str, ...]:
    if wanted is None:
        return Tensors.OUTPUTS
    listed = wanted if isinstance(wanted, list) else []
    names = [output.get("name") if isinstance(output, dict) else None for output in listed]
    if not names or any(name not in Tensors.OUTPUTS for name in names) or len(names) > len(set(names)):
        raise MalformedJSON(f"'outputs' has to name tensors, each once: {', '.join(Tensors.OUTPUTS)}.")
    return tuple(names)


def _items(pictures: Sequence[Mapping[str, Any]], asking: ParseContext) -> list[Item | RequestError]:
    """Several pictures' fields and options; what is wrong with one stands in its place."""
    items: list[Item | RequestError] = []
    for fields in pictures:
        try:
            items.append(_item(fields, asking))
        except RequestError as error:
            items.append(error)
    return items


def _item(fields: Mapping[str, Any], asking: ParseContext) -> Item:
    """A picture's field and its options."""
    fields = dict(fields)
    named = [name for name in PICTURE_FIELDS if name in fields]
    if len(named) > 1:
        raise MalformedJSON(f"The request has more than one picture: {' and '.join(named)}.")
    image = fields.pop(named[0]) if named else b""
    explain = _explain(fields, asking.methods) if asking.methods else None
    # First, so that a picture in a field of another name is told its name.
    options = parse_options(fields, asking.defaults)
    if explain:
        options = replace(options, attention=explain.method == "attention")
    return Item(_image_bytes(image, asking.limits), options, explain)


def _explain(fields: dict[str, Any], methods: Sequence[str]) -> Explain:
    """Takes what is said of explanations out of a picture's fields."""
    method = fields.pop("method", methods[0])
    method = _text(method) or method
    if method not in methods:
        raise OptionOutOfRange(f"method is {' or '.join(methods)} for this model, not {shorten(method)}.")
    return Explain(method, parse_flag("overlay", fields.pop("overlay", False)))


def _image_bytes(image: object, limits: Limits) -> bytes:
    if not image or not isinstance(image, str | bytes | bytearray):
        raise EmptyBody(NO_PICTURE)
    if len(image) > limits.max_bytes * (4 / 3 if isinstance(image, str) else 1) * 1.05:  # base64 may have line breaks
        raise TooLarge(f"The picture has more than the {limits.max_bytes} bytes allowed.")
    if isinstance(image, str):
        try:
            text = "".join(image.split()).translate(URL_SAFE)  # tools break it into lines
            if text[:5].lower() == "data:":
                head, _, text = text.partition(",")
                if not head.lower().endswith(";base64"):
                    raise ValueError
            image = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise MalformedJSON("The picture is not in base64.") from error
        if not image:  # blanks only, or `data:;base64,` with nothing behind
            raise EmptyBody(NO_PICTURE)
    if len(image) > limits.max_bytes:
        raise TooLarge(f"The picture has {len(image)} bytes, more than the {limits.max_bytes} allowed.")
    return bytes(image)


def _check_count(pictures: Sequence, limits: Limits) -> None:
    if len(pictures) > limits.max_images:
        raise TooManyImages(f"The request has {len(pictures)} pictures, more than the {limits.max_images} allowed.")


def _check_explained(items: Sequence[Item | RequestError], limits: Limits) -> None:
    captions = sum(item.options.num_captions for item in items if isinstance(item, Item))
    if captions > limits.max_explanations:
        raise OptionOutOfRange(
            f"The request wants {captions} captions explained, more than the {limits.max_explanations} allowed."
        )


def _refuse_stream(fields: dict[str, Any]) -> None:
    if parse_flag("stream", fields.pop("stream", False)):
        raise OptionOutOfRange("stream is for captions of one picture in the field 'image'.")


def _text(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else value
    return text if isinstance(text, str) else ""

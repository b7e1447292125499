"""Parse a request into images and options.

A request has one of three forms, told apart by a field: `image` holds one image; `images` or `instances` several (the
second is the field of the V1 inference protocol); `inputs` holds the tensors of the Open Inference Protocol (V2).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from handler.errors import EmptyBody, MalformedJSON, OptionOutOfRange, RequestError, UnsupportedMedia
from handler.serving import open_inference
from handler.serving.image_parsing import (
    IMAGE_FIELDS,
    ParseContext,
    check_num_images,
    parse_image,
    parse_images,
    reject_stream,
)
from handler.serving.messages import ImageRequest, InferenceRequest, MultiImageRequest, SingleImageRequest
from handler.serving.option_parsing import parse_bool

JSON_FIELDS = ("images", "instances", "inputs", "parameters", "outputs")  # in a form they are JSON text


def parse_request(
    fields: Mapping[str, object], content_type: str, context: ParseContext, *, explain: bool = False
) -> InferenceRequest:
    """Parse a raw body, a form (multipart or the gRPC map) or a JSON object.

    Args:
        fields: Fields from TorchServe: raw bodies and form fields as bytearrays, JSON parsed, `text/*` as str.
        content_type: `Content-Type` header as sent; empty if there is none.
        context: Defaults and limits.
        explain: The request asks for explanations.

    Returns:
        The request. Errors are values: they stand in the place of their image, and an error of the whole request is
        its only entry.
    """
    try:
        fields = _extract_fields(fields, content_type)
    except RequestError as error:
        return SingleImageRequest([error])
    if "inputs" in fields:
        return open_inference.decode_request(fields, context, explain=explain)
    return decode_request(fields, context, explain=explain)


def decode_request(fields: dict[str, Any], context: ParseContext, *, explain: bool) -> InferenceRequest:
    """Decode a request of the native protocol or the V1 inference protocol; see `parse_request`."""
    try:
        parse = _parse_multiple if "images" in fields or "instances" in fields else _parse_single
        request = parse(fields, context, explain)
        if explain:
            _check_num_explanations(request.images, context.settings.max_explanations)
        return request
    except RequestError as error:
        return SingleImageRequest([error])


def _extract_fields(fields: Mapping[str, object], content_type: str) -> dict[str, Any]:
    """Return the fields of a form or JSON object; a raw body is the field `body`.

    Images are base64 text in JSON, and bytes otherwise.
    """
    body = fields.get("body")
    if content_type.partition(";")[0].strip().lower() == "application/json" or isinstance(body, dict | list):
        return _json_object(body)
    if isinstance(body, str):
        raise UnsupportedMedia(
            "The body is text. Send the bytes of an image file, a form with the field 'image', or JSON."
        )
    form = dict(fields)
    for name in JSON_FIELDS:
        value = form.get(name)
        if isinstance(value, bytes | bytearray | str):
            form[name] = _parse_json(value)
    for name in IMAGE_FIELDS:
        if isinstance(form.get(name), str):
            raise UnsupportedMedia(f"The field '{name}' holds text. Send the bytes of an image file.")
    return form


def _json_object(body: object) -> dict[str, Any]:
    content = _parse_json(body) if isinstance(body, bytes | bytearray) else body
    if content is None or content == {}:
        raise EmptyBody("No image in the request. Send a JSON object with the field 'image' in base64.")
    if not isinstance(content, dict):
        raise MalformedJSON("The body is not a JSON object. Send an object with the field 'image' in base64.")
    return dict(content)


def _parse_json(text: bytes | bytearray | str) -> object:
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedJSON("The JSON cannot be parsed. Check its syntax and encoding.") from error


def _parse_single(fields: dict[str, Any], context: ParseContext, explain: bool) -> InferenceRequest:
    if explain:
        reject_stream(fields)
    stream = parse_bool("stream", fields.pop("stream", False))
    return SingleImageRequest([parse_image(fields, context, explain)], stream)


def _parse_multiple(fields: dict[str, Any], context: ParseContext, explain: bool) -> InferenceRequest:
    """Parse a list of images: each is base64 text, or an object whose options override those beside the list."""
    present = [name for name in ("images", "instances", *IMAGE_FIELDS) if name in fields]
    if len(present) > 1:
        raise MalformedJSON(f"The request has images in {' and '.join(present)}. Send them in a single field.")
    images = fields.pop(present[0])
    reject_stream(fields)
    if not isinstance(images, list) or not images:
        raise EmptyBody(f"No image in the request. Send a list of images in base64 as '{present[0]}'.")
    check_num_images(images, context.settings.max_images)
    per_image = [fields | _image_fields(image) for image in images]
    if explain and any(parse_bool("overlay", image.get("overlay", False)) for image in per_image):
        raise OptionOutOfRange("overlay is available for a single image only. Send one image in 'image'.")
    return MultiImageRequest(parse_images(per_image, context, explain))


def _image_fields(image: object) -> dict[str, Any]:
    fields = dict(image) if isinstance(image, dict) else {"image": image}
    if "b64" in fields and "image" not in fields:  # as TensorFlow Serving writes bytes
        fields["image"] = fields.pop("b64")
    return fields


def _check_num_explanations(images: Sequence[ImageRequest | RequestError], max_explanations: int) -> None:
    captions = sum(image.options.num_captions for image in images if isinstance(image, ImageRequest))
    if captions > max_explanations:
        raise OptionOutOfRange(
            f"The request asks to explain {captions} captions; the limit is {max_explanations}. "
            "Send fewer images or lower num_captions."
        )

"""Parse a request into images and options.

A request has one of three forms, told apart by a field: `image` holds one image; `images` or `instances` several (the
second is the field of the V1 inference protocol); `inputs` holds the tensors of the Open Inference Protocol (V2).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from handler.errors import EmptyBody, MalformedJSON, OptionOutOfRange, RequestError, UnsupportedMedia
from handler.generation import GENERATION_OPTIONS
from handler.image import has_signature
from handler.serving import open_inference
from handler.serving.image_parsing import (
    IMAGE_FIELDS,
    URL,
    URL_FIELDS,
    URLS_ARE_NOT_FETCHED,
    ParseContext,
    check_num_images,
    is_base64_of_image,
    parse_image,
    parse_images,
    reject_stream,
)
from handler.serving.messages import ImageRequest, InferenceRequest, MultiImageRequest, SingleImageRequest
from handler.serving.option_parsing import format_value, parse_bool

JSON_FIELDS = ("images", "instances", "inputs", "parameters", "outputs")  # in a form they are JSON text
FORM = "application/x-www-form-urlencoded"  # what curl's -d and --data-binary declare by themselves
GZIP = b"\x1f\x8b"
COMPRESSED = "The body is compressed. Send it without Content-Encoding; image files are compressed already."


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
        request = parse(_with_parameters(fields), context, explain)
        if explain:
            _check_num_explanations(request.images, context.settings.max_explanations)
        return request
    except RequestError as error:
        return SingleImageRequest([error])


def _extract_fields(fields: Mapping[str, object], content_type: str) -> dict[str, Any]:
    """Return the fields of a form or JSON object; a raw body is the field `body`.

    JSON is known by its first character, whatever its content type. Images are base64 text in JSON, and bytes
    otherwise.
    """
    body = fields.get("body")
    media_type = content_type.partition(";")[0].strip().lower()
    if isinstance(body, bytes | bytearray) and body.startswith(GZIP):
        raise UnsupportedMedia(COMPRESSED)
    if "body" in fields and (_is_json(body) or media_type == "application/json" or media_type.endswith("+json")):
        return _merge(_json_object(body), {name: value for name, value in fields.items() if name != "body"})
    if isinstance(body, str) and not is_base64_of_image(body.encode("utf-8", "replace")):
        raise UnsupportedMedia(
            "The body is text. Send the bytes of an image file, a form with the field 'image', or JSON."
            + (f" {URLS_ARE_NOT_FETCHED}" if URL.match(body) else "")
        )
    form = _urlencoded_fields(fields) if media_type == FORM else dict(fields)
    return _form_fields(form)


def _form_fields(form: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a form: parsed if they hold JSON, the image under one of `IMAGE_FIELDS`."""
    form.pop("model_name", None)  # in the query of /invocations it names the model
    for name in JSON_FIELDS:
        value = form.get(name)
        if isinstance(value, bytes | bytearray | str):
            form[name] = _parse_json(value)
    for name in IMAGE_FIELDS:
        value = form.get(name)
        if _is_json(value):  # a JSON file in place of the image
            return _merge(_json_object(form.pop(name)), form)
        if isinstance(value, str):
            form[name] = value.encode("utf-8", "replace")
            if not is_base64_of_image(form[name]):
                raise UnsupportedMedia(f"The field '{name}' holds text. Send the bytes of an image file.")
    if not any(name in form for name in (*IMAGE_FIELDS, *JSON_FIELDS)):
        for name, value in list(form.items()):  # the content shows what is an image, not the name of its field
            if isinstance(value, bytes | bytearray) and has_signature(value):
                form["image"] = form.pop(name)
                break
    return form


def _merge(fields: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of two parts of a request, e.g. of its JSON body and of the query of its URL."""
    if twice := sorted(fields.keys() & others.keys()):
        raise MalformedJSON(f"The request has '{format_value(twice[0])}' twice. Send it once.")
    return fields | others


def _urlencoded_fields(fields: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields of a form of texts. In base64, + arrives as a space.

    Raises:
        UnsupportedMedia: If the body is JSON or an image that a client declared to be a form.
    """
    for name in fields:
        if name.lstrip()[:1] in ("{", "["):
            raise UnsupportedMedia(
                "The body is JSON and declared to be a form, as curl -d does. "
                "Add the header (curl -H 'Content-Type: application/json' -d @file.json)."
            )
    known = {*IMAGE_FIELDS, *JSON_FIELDS, *URL_FIELDS, *GENERATION_OPTIONS, "stream", "method", "overlay"}
    if fields and not known & fields.keys():
        raise UnsupportedMedia(
            "The body is declared to be a form, as curl's -d and --data-binary do, and has no field that is known. "
            "Send an image as the body (curl -T photo.jpg) or as the field 'image' (curl -F image=@photo.jpg)."
        )
    form = dict(fields)
    for name in IMAGE_FIELDS:
        if isinstance(value := form.get(name), bytes | bytearray):
            form[name] = value.replace(b" ", b"+")
    return form


def _is_json(value: object) -> bool:
    """Return True for parsed JSON, and for text that begins like a JSON object or list, which no image does."""
    if isinstance(value, str):
        return value.lstrip("\ufeff \t\r\n")[:1] in ("{", "[")
    if isinstance(value, bytes | bytearray):  # UTF-16 and UTF-32 have zeros between the characters
        return value[:100].lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1] in (b"{", b"[")
    return isinstance(value, dict | list) and not (isinstance(value, dict) and value.keys() == {"b64"})


def _json_object(body: object) -> dict[str, Any]:
    content = _parse_json(body) if isinstance(body, bytes | bytearray | str) else body
    if content is None or content == {}:
        raise EmptyBody("No image in the request. Send a JSON object with the field 'image' in base64.")
    if not isinstance(content, dict):
        raise MalformedJSON("The body is not a JSON object. Send an object with the field 'image' in base64.")
    return dict(content)


def _parse_json(text: bytes | bytearray | str) -> object:
    if not text:
        return None
    try:
        return json.loads(text.removeprefix("\ufeff") if isinstance(text, str) else text)
    except (ValueError, RecursionError) as error:
        if isinstance(text, bytes | bytearray) and b'"binary_data_size"' in text[:10_000]:  # of a client of KServe
            raise MalformedJSON(open_inference.BINARY_TENSORS) from error
        raise MalformedJSON("The JSON cannot be parsed. Check its syntax and encoding.") from error


def _with_parameters(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the options of `parameters`, where the requests of Vertex AI and KServe have them."""
    parameters = fields.pop("parameters", None)
    if not isinstance(parameters, dict | None):
        raise MalformedJSON("'parameters' must be an object with options.")
    return _merge(fields, parameters or {})


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

"""A row as TorchServe hands it over → the picture's bytes and the options."""

import base64
import binascii
from collections.abc import Mapping
from typing import NamedTuple

from handler.errors import EmptyBody, MalformedJSON, UnsupportedMedia
from handler.options import parse_options
from handler.search import SearchOptions

# Where a picture may stand: a raw body comes as `body`; `image` is the form's and JSON's field, and `data` what
# TorchServe's own examples call it over gRPC.
PICTURE_FIELDS = ("image", "body", "data")


class CaptionRequest(NamedTuple):
    """One picture to caption."""

    image: bytes
    options: SearchOptions


def parse_request(row: Mapping[str, object], content_type: str, defaults: SearchOptions) -> CaptionRequest:
    """Reads a raw body, a form (multipart or gRPC's map) or a JSON object.

    Args:
        row: TorchServe's row: raw bodies and form fields as bytearrays, JSON already parsed, `text/*` as str.
        content_type: of the request, as sent; empty where there is none.
        defaults: options for what is not asked for.

    Raises:
        RequestError: no picture, another content type, malformed JSON, or an option that can't be.
    """
    body = row.get("body")
    if content_type.partition(";")[0].strip().lower() == "application/json" or isinstance(body, dict | list):
        return _from_json(body, defaults)
    if isinstance(body, str):
        raise UnsupportedMedia("The body is text: send an image file's bytes, a form with the field 'image', or JSON.")
    fields = dict(row)
    named = [name for name in PICTURE_FIELDS if name in fields]
    if len(named) > 1:
        raise MalformedJSON(f"The request has more than one picture: {' and '.join(named)}.")
    image = fields.pop(named[0]) if named else b""
    options = parse_options(fields, defaults)  # first, so that a picture in a field of another name is told its name
    if not image:
        raise EmptyBody(
            "There is no picture: send an image file's bytes (curl -T photo.jpg), or a form with the field 'image'."
        )
    if not isinstance(image, bytes | bytearray):
        raise UnsupportedMedia(f"The field '{named[0]}' holds no image file's bytes.")
    return CaptionRequest(bytes(image), options)


def _from_json(body: object, defaults: SearchOptions) -> CaptionRequest:
    if not body:
        raise EmptyBody("There is no picture: the JSON object has to have the field 'image', in base64.")
    # TorchServe hands on as bytes what it could not parse.
    if not isinstance(body, dict):
        raise MalformedJSON("The body is no JSON object with the field 'image', in base64.")
    fields = dict(body)
    text = fields.pop("image", None)
    if not isinstance(text, str) or not text:
        raise EmptyBody("There is no picture: the field 'image' has to hold an image file's bytes in base64.")
    try:
        image = base64.b64decode("".join(text.split()), validate=True)  # tools break it into lines
    except (binascii.Error, ValueError) as error:
        raise MalformedJSON("The field 'image' is not in base64.") from error
    return CaptionRequest(image, parse_options(fields, defaults))

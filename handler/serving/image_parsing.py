"""Parse the fields of an image: its bytes, its generation options, and its explanation options."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from handler.errors import EmptyBody, MalformedJSON, OptionOutOfRange, RequestError, TooLarge, TooManyImages
from handler.generation import GenerationConfig
from handler.image import has_signature
from handler.serving.messages import ExplainOptions, ImageRequest
from handler.serving.option_parsing import as_str, format_value, parse_bool, parse_options
from handler.serving.settings import DEFAULT_SETTINGS, Settings

# Fields that hold a single image: `image` in forms and JSON, `body` for raw bodies, `data`, which the examples of
# TorchServe use, and `image_bytes` of those of TensorFlow Serving.
IMAGE_FIELDS = ("image", "body", "data", "image_bytes")
SMALLER = "Send a smaller file, or raise max_bytes in model-config.yaml."
URL_FIELDS = ("url", "uri", "image_url", "image_uri", "href")
URL = re.compile(r"\s*(?!data:)[A-Za-z][A-Za-z0-9+.-]{0,20}:/")  # https://…, s3://…, file:/…
URLS_ARE_NOT_FETCHED = "URLs are not fetched. Send the bytes of the image, in base64 if the request is JSON."
BASE64_TEXT = re.compile(rb"\s*(?:data:[^,]{0,100},)?\s*[A-Za-z0-9+/_-][A-Za-z0-9+/_=\s-]+")
MISSING_IMAGE = (
    "No image in the request. Send the bytes of an image file (curl -T photo.jpg), a form with the field 'image', "
    "or JSON with the field 'image' in base64."
)
URL_SAFE = str.maketrans("-_", "+/")  # the base64url alphabet
BASE64_SLACK = 1.05  # base64 text may have line breaks


@dataclass(frozen=True)
class ParseContext:
    """What requests are parsed with.

    Attributes:
        defaults: Values of the options that a request does not set.
        settings: Limits on images and their number; pixels are checked when an image is opened.
        explanation_methods: Methods of the model, see `Captioner.explanation_methods`; the first is the default.
    """

    defaults: GenerationConfig
    settings: Settings = DEFAULT_SETTINGS
    explanation_methods: Sequence[str] = ("gradient",)


def parse_images(
    images: Sequence[Mapping[str, Any]], context: ParseContext, explain: bool
) -> list[ImageRequest | RequestError]:
    """Parse the fields of several images. An error stands in the place of its image."""
    return [_parse_or_error(fields, context, explain) for fields in images]


def _parse_or_error(fields: Mapping[str, Any], context: ParseContext, explain: bool) -> ImageRequest | RequestError:
    try:
        return parse_image(fields, context, explain)
    except RequestError as error:
        return error


def parse_image(fields: Mapping[str, Any], context: ParseContext, explain: bool) -> ImageRequest:
    """Parse the fields of an image.

    Args:
        fields: The image under one of `IMAGE_FIELDS`, and options.
        context: Defaults and limits.
        explain: Accept explanation options too.

    Raises:
        RequestError: If the image is missing, too large or not base64, or if an option is not valid.
    """
    fields = dict(fields)
    present = [name for name in IMAGE_FIELDS if name in fields]
    if len(present) > 1:
        raise MalformedJSON(f"The request has images in {' and '.join(present)}. Send a single image in 'image'.")
    image = fields.pop(present[0]) if present else b""
    if not present and any(name in fields for name in URL_FIELDS):
        raise MalformedJSON(URLS_ARE_NOT_FETCHED)
    explain_options = _pop_explain_options(fields, context.explanation_methods) if explain else None
    # Before the image is checked: if the image has a field of another name, the message is about that name.
    options = parse_options(fields, context.defaults)
    if explain_options:
        options = replace(options, attention=explain_options.method == "attention")
    return ImageRequest(_image_bytes(image, context.settings.max_bytes), options, explain_options)


def _pop_explain_options(fields: dict[str, Any], methods: Sequence[str]) -> ExplainOptions:
    value = fields.pop("method", methods[0])
    method = as_str(value)
    if method not in methods:
        raise OptionOutOfRange(f"method must be {' or '.join(methods)} for this model, not {format_value(value)}.")
    return ExplainOptions(method, parse_bool("overlay", fields.pop("overlay", False)))


def _image_bytes(image: object, max_bytes: int) -> bytes:
    """Return the bytes of an image that is given as bytes or in base64."""
    if isinstance(image, dict) and image.keys() == {"b64"}:  # as TensorFlow Serving writes bytes
        image = image["b64"]
    if not image or not isinstance(image, str | bytes | bytearray):
        raise EmptyBody(MISSING_IMAGE)
    if isinstance(image, bytes | bytearray) and is_base64_of_image(image):
        image = image.decode("ascii")
    if isinstance(image, bytes | bytearray) and URL.match(image[:40].decode("latin-1")):
        raise MalformedJSON(URLS_ARE_NOT_FETCHED)
    if isinstance(image, str):
        if len(image) > max_bytes * 4 / 3 * BASE64_SLACK:  # before it is decoded
            raise TooLarge(f"The image has more than {max_bytes} bytes, the limit. {SMALLER}")
        image = _decode_base64(image)
    if len(image) > max_bytes:
        raise TooLarge(f"The image has {len(image)} bytes; the limit is {max_bytes}. {SMALLER}")
    return bytes(image)


def is_base64_of_image(data: bytes | bytearray) -> bool:
    """Return True for the base64 text of an image, which a form or a raw body may hold in place of the image."""
    if not BASE64_TEXT.fullmatch(data):
        return False
    head = data[:200].strip().rpartition(b",")[2].split()[0].translate(bytes.maketrans(b"-_", b"+/"))[:64]
    try:
        return has_signature(base64.b64decode(head[: len(head) // 4 * 4]))
    except binascii.Error:
        return False


def _decode_base64(text: str) -> bytes:
    """Decode base64 or base64url, with or without padding and line breaks, or a data URL."""
    if URL.match(text):
        raise MalformedJSON(URLS_ARE_NOT_FETCHED)
    try:
        text = text.strip()
        if text[:5].lower() == "data:":
            head, _, text = text.partition(",")
            if not head.lower().endswith(";base64"):
                raise ValueError
        text = "".join(text.splitlines()).translate(URL_SAFE)
        if " " in text:  # dropping them would decode to another image
            raise MalformedJSON("The base64 has spaces. A form turns + into a space: send + as %2B, or send JSON.")
        image = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedJSON("The image is not valid base64. Encode the bytes of the image file.") from error
    if not image:  # white space only, or `data:;base64,` with nothing behind it
        raise EmptyBody(MISSING_IMAGE)
    return image


def check_num_images(images: Sequence[object], max_images: int) -> None:
    """Check the number of images in a request.

    Raises:
        TooManyImages: If there are more than `max_images`.
    """
    if len(images) > max_images:
        raise TooManyImages(f"The request has {len(images)} images; the limit is {max_images}. Send several requests.")


def reject_stream(fields: dict[str, Any]) -> None:
    """Remove `stream` from a request that cannot be streamed.

    Raises:
        OptionOutOfRange: If it is true or not a boolean.
    """
    if parse_bool("stream", fields.pop("stream", False)):
        raise OptionOutOfRange("stream needs a caption request with a single image in 'image'. Leave it out.")

"""Parse the fields of an image: its bytes, its generation options, and its explanation options."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from handler.errors import EmptyBody, MalformedJSON, OptionOutOfRange, RequestError, TooLarge, TooManyImages
from handler.generation import GenerationConfig
from handler.serving.messages import ExplainOptions, ImageRequest
from handler.serving.option_parsing import as_str, format_value, parse_bool, parse_options
from handler.serving.settings import DEFAULT_SETTINGS, Settings

# Fields that hold a single image: `image` in forms and JSON, `body` for raw bodies, and `data`, which TorchServe's
# gRPC examples use.
IMAGE_FIELDS = ("image", "body", "data")
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
    if not image or not isinstance(image, str | bytes | bytearray):
        raise EmptyBody(MISSING_IMAGE)
    if isinstance(image, str):
        if len(image) > max_bytes * 4 / 3 * BASE64_SLACK:  # before it is decoded
            raise TooLarge(f"The image has more than {max_bytes} bytes, the limit. Send a smaller file.")
        image = _decode_base64(image)
    if len(image) > max_bytes:
        raise TooLarge(f"The image has {len(image)} bytes; the limit is {max_bytes}. Send a smaller file.")
    return bytes(image)


def _decode_base64(text: str) -> bytes:
    """Decode base64 or base64url, with or without padding and line breaks, or a data URL."""
    try:
        text = "".join(text.split()).translate(URL_SAFE)
        if text[:5].lower() == "data:":
            head, _, text = text.partition(",")
            if not head.lower().endswith(";base64"):
                raise ValueError
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

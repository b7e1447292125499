"""Bytes, base64 and explanation options of an image."""

import base64

import pytest

from handler.errors import EmptyBody, MalformedJSON, OptionOutOfRange, TooLarge, UnknownOption
from handler.generation import GenerationConfig
from handler.serving.image_parsing import ParseContext
from handler.serving.messages import ExplainOptions, ImageRequest
from handler.serving.parsing import parse_request
from handler.serving.settings import Settings

DEFAULTS = GenerationConfig()
ENCODED = base64.b64encode(b"image").decode()


def test_image_with_more_bytes_than_the_limit_is_too_large():
    for size, fits in ((100, True), (101, False), (200, False)):
        image = b"x" * size
        encoded = base64.b64encode(image).decode()
        for row, kind in (({"body": image}, ""), ({"body": {"image": encoded}}, "application/json")):
            [item] = parse_request(row, kind, ParseContext(DEFAULTS, Settings(max_bytes=100))).images
            assert (item == ImageRequest(image, DEFAULTS)) if fits else isinstance(item, TooLarge)


@pytest.mark.parametrize(
    "text",
    [
        ENCODED.rstrip("="),
        base64.b64encode(b"\xfb\xff?").decode(),
        base64.urlsafe_b64encode(b"\xfb\xff?").decode(),
        f" DATA:image/png;base64,{ENCODED}",
        f"{ENCODED[:4]}\r\n{ENCODED[4:]}",
    ],
)
def test_image_in_any_form_of_base64_is_decoded(text):
    [item] = parse_request({"body": {"image": text}}, "application/json", ParseContext(DEFAULTS)).images
    assert item.image in (b"image", b"\xfb\xff?")


@pytest.mark.parametrize("text", ["data:image/png,image", "a", "====", "ab§=", "data:"])
def test_image_that_is_not_base64_is_malformed(text):
    [item] = parse_request({"body": {"image": text}}, "application/json", ParseContext(DEFAULTS)).images
    assert isinstance(item, MalformedJSON)


@pytest.mark.parametrize("image", ["data:;base64,", "data:image/png;base64, \n", " \n\t"])
def test_image_in_base64_of_nothing_is_missing(image):
    [item] = parse_request({"body": {"image": image}}, "application/json", ParseContext(DEFAULTS)).images
    assert isinstance(item, EmptyBody)


@pytest.mark.parametrize(
    ("fields", "options", "explain"),
    [
        ({}, GenerationConfig(attention=True), ExplainOptions("attention")),
        ({"method": b"gradient"}, DEFAULTS, ExplainOptions("gradient")),
        (
            {"overlay": b"true", "beam_size": b"2"},
            GenerationConfig(2, attention=True),
            ExplainOptions("attention", True),
        ),
    ],
)
def test_explanation_request_has_explain_options(fields, options, explain):
    context = ParseContext(DEFAULTS, explanation_methods=("attention", "gradient"))
    [image] = parse_request({"image": b"image"} | fields, "", context, explain=True).images
    assert image == ImageRequest(b"image", options, explain)


@pytest.mark.parametrize(("method", "shown"), [("magic", "magic"), (7, "7"), ([], "a list")])
def test_explanation_method_that_the_model_lacks_is_out_of_range(method, shown):
    [image] = parse_request(
        {"body": {"image": ENCODED, "method": method}}, "", ParseContext(DEFAULTS), explain=True
    ).images
    assert isinstance(image, OptionOutOfRange)
    assert str(image) == f"method must be gradient for this model, not {shown}."


def test_caption_request_has_no_explain_options():
    [image] = parse_request({"image": b"image", "method": b"gradient"}, "", ParseContext(DEFAULTS)).images
    assert isinstance(image, UnknownOption)

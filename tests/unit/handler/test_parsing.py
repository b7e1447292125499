"""Rows as TorchServe hands them over, and the options in them."""

import base64
import json

import pytest

from handler.errors import (
    EmptyBody,
    MalformedJSON,
    OptionOutOfRange,
    TooLarge,
    TooManyImages,
    UnknownOption,
    UnsupportedMedia,
)
from handler.generation import GenerationConfig
from handler.serving.image_parsing import ParseContext
from handler.serving.messages import ImageRequest, SingleImageRequest
from handler.serving.open_inference import OpenInferenceRequest
from handler.serving.options import parse_options
from handler.serving.parsing import parse_request
from handler.serving.settings import Settings

DEFAULTS = GenerationConfig()
ENCODED = base64.b64encode(b"picture").decode()


@pytest.mark.parametrize(
    ("row", "content_type", "options"),
    [
        ({"body": bytearray(b"picture")}, "image/jpeg", DEFAULTS),
        ({"body": bytearray(b"picture")}, "", DEFAULTS),
        ({"image": bytearray(b"picture")}, "multipart/form-data; boundary=x", DEFAULTS),
        ({"data": bytearray(b"picture")}, "", DEFAULTS),
        ({"image": bytearray(b"picture"), "beam_size": bytearray(b"3")}, "", GenerationConfig(beam_size=3)),
        ({"body": {"image": ENCODED}}, "application/json", DEFAULTS),
        ({"body": {"image": f"{ENCODED[:5]}\n{ENCODED[5:]}\n"}}, "application/json", DEFAULTS),
        (
            {"body": {"image": ENCODED, "max_length": 9}},
            "Application/JSON; charset=utf-8",
            GenerationConfig(max_length=9),
        ),
    ],
)
def test_where_a_picture_may_stand(row, content_type, options):
    request = parse_request(row, content_type, ParseContext(DEFAULTS))
    assert isinstance(request, SingleImageRequest)
    assert request.images == [ImageRequest(b"picture", options)]
    assert not request.stream


@pytest.mark.parametrize(
    ("row", "content_type", "error"),
    [
        ({}, "", EmptyBody),
        ({"body": bytearray()}, "image/jpeg", EmptyBody),
        ({"beam_size": bytearray(b"3")}, "", EmptyBody),
        ({"file": bytearray(b"picture")}, "", UnknownOption),
        ({"image": bytearray(b"x"), "body": bytearray(b"y")}, "", MalformedJSON),
        ({"body": "hello"}, "text/plain", UnsupportedMedia),
        ({"body": bytearray(b"{broken")}, "application/json", MalformedJSON),
        ({"body": [1, 2]}, "application/json", MalformedJSON),
        ({"body": {}}, "application/json", EmptyBody),
        ({"body": {"beam_size": 3}}, "application/json", EmptyBody),
        ({"body": {"image": 7}}, "application/json", EmptyBody),
        ({"body": {"image": "not base64!"}}, "application/json", MalformedJSON),
        ({"body": {"image": "é"}}, "application/json", MalformedJSON),
        ({"body": {"image": ENCODED, "beams": 3}}, "application/json", UnknownOption),
        ({"image": bytearray(b"x"), "beam_size": bytearray(b"99")}, "", OptionOutOfRange),
    ],
)
def test_requests_that_cant_be_met(row, content_type, error):
    request = parse_request(row, content_type, ParseContext(DEFAULTS))
    assert isinstance(request, SingleImageRequest)
    assert [type(item) for item in request.images] == [error]


BIG = base64.b64encode(b"x" * 101).decode()


@pytest.mark.parametrize(
    ("fields", "items"),
    [
        ({"images": [ENCODED, ENCODED]}, [DEFAULTS, DEFAULTS]),
        ({"instances": [ENCODED], "beam_size": 2}, [GenerationConfig(beam_size=2)]),
        (
            {"images": [{"image": ENCODED, "max_length": 9}, {"b64": ENCODED}, ENCODED], "beam_size": 2},
            [GenerationConfig(beam_size=2, max_length=9), GenerationConfig(beam_size=2), GenerationConfig(beam_size=2)],
        ),
        ({"images": [ENCODED, 7, "§", {}, BIG, {"image": ENCODED, "x": 1}, {"image": ENCODED, "beam_size": 0}]},
         [DEFAULTS, EmptyBody, MalformedJSON, EmptyBody, TooLarge, UnknownOption, OptionOutOfRange]),
        (  # Together they are right, alone the shared ones would not be.
            {"images": [{"image": ENCODED, "beam_size": 9}, {"image": ENCODED, "temperature": 1}], "num_captions": 8},
            [GenerationConfig(beam_size=9, num_captions=8), GenerationConfig(temperature=1, num_captions=8)],
        ),
        ({"images": []}, [EmptyBody]),
        ({"images": ENCODED}, [EmptyBody]),
        ({"images": [ENCODED], "instances": [ENCODED]}, [MalformedJSON]),
        ({"images": [ENCODED], "image": ENCODED}, [MalformedJSON]),
        ({"images": [ENCODED], "beams": 1}, [UnknownOption]),
        ({"images": [ENCODED], "stream": True}, [OptionOutOfRange]),
        ({"images": [ENCODED] * 9}, [TooManyImages]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", [False, True])
def test_several_pictures(fields, items, form):
    """In JSON, and in a form or gRPC's map, whose fields hold JSON texts."""
    row = {"body": fields}
    if form:
        row = {name: json.dumps(value).encode() for name, value in fields.items()}
        if "image" in fields:
            row["image"] = b"picture"
    request = parse_request(
        row, "" if form else "application/json", ParseContext(DEFAULTS, Settings(max_bytes=100, max_images=8))
    )
    expected = [ImageRequest(b"picture", item) if isinstance(item, GenerationConfig) else item for item in items]
    assert [type(item) if isinstance(item, Exception) else item for item in request.images] == expected


TENSOR = {"name": "image", "shape": [2], "datatype": "BYTES", "data": [ENCODED, ENCODED]}


@pytest.mark.parametrize(
    ("fields", "items"),
    [
        ({"inputs": [TENSOR], "id": "a"}, [DEFAULTS, DEFAULTS]),
        ({"inputs": [TENSOR | {"shape": [1, 2], "data": [[ENCODED, ENCODED]]}], "id": "a"}, [DEFAULTS, DEFAULTS]),
        (
            {"inputs": [TENSOR | {"parameters": {"beam_size": 2, "content_type": "base64"}}],
             "parameters": {"beam_size": 3, "max_length": 7}, "id": "a"},
            [GenerationConfig(beam_size=2, max_length=7)] * 2,
        ),
        ({"inputs": [TENSOR | {"shape": [2, 1], "data": [[ENCODED], [ENCODED]]}], "id": "a"}, [DEFAULTS, DEFAULTS]),
        ({"inputs": [TENSOR | {"data": [ENCODED, "§"]}], "id": "a"}, [DEFAULTS, MalformedJSON]),
        ({"inputs": [TENSOR | {"data": [ENCODED, 7]}], "id": "a"}, [DEFAULTS, EmptyBody]),
        ({"inputs": [], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR, TENSOR], "id": "a"}, [MalformedJSON]),
        ({"inputs": [7], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"datatype": "FP32"}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"shape": [3]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"shape": [-1, -2]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"shape": [True, 2]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"data": []}], "id": "a"}, [EmptyBody]),
        ({"inputs": [TENSOR | {"shape": [9], "data": [ENCODED] * 9}], "id": "a"}, [TooManyImages]),
        ({"inputs": [TENSOR], "beam_size": 3, "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "parameters": [], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "parameters": {"beams": 3}, "id": "a"}, [UnknownOption, UnknownOption]),
        ({"inputs": [TENSOR | {"shape": [2] + [1] * 8}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"shape": [2, 10**400]}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "outputs": [{"name": "caption"}, {"name": "caption"}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR | {"name": 7}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "parameters": {"stream": True}, "id": "a"}, [OptionOutOfRange]),
        ({"inputs": [TENSOR], "outputs": [{"name": "logits"}], "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "outputs": 7, "id": "a"}, [MalformedJSON]),
        ({"inputs": [TENSOR], "outputs": [{"name": {}}], "id": "a"}, [MalformedJSON]),
    ],
)  # fmt: skip
def test_tensors(fields, items):
    request = parse_request({"body": fields}, "application/json", ParseContext(DEFAULTS, Settings(max_images=8)))
    assert isinstance(request, OpenInferenceRequest)
    assert request.id == "a"
    expected = [ImageRequest(b"picture", item) if isinstance(item, GenerationConfig) else item for item in items]
    assert [type(item) if isinstance(item, Exception) else item for item in request.images] == expected


def test_limits_on_bytes():
    for size, fits in ((100, True), (101, False), (200, False)):
        picture = b"x" * size
        encoded = base64.b64encode(picture).decode()
        for row, kind in (({"body": picture}, ""), ({"body": {"image": encoded}}, "application/json")):
            [item] = parse_request(row, kind, ParseContext(DEFAULTS, Settings(max_bytes=100))).images
            assert (item == ImageRequest(picture, DEFAULTS)) if fits else isinstance(item, TooLarge)


@pytest.mark.parametrize("value", [True, "true", b"true"])
def test_stream(value):
    row = {"image": b"picture", "stream": value}
    request = parse_request(row, "", ParseContext(DEFAULTS))
    assert request.stream
    assert request.images == [ImageRequest(b"picture", DEFAULTS)]


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
def test_base64_as_it_is_met(text):
    [item] = parse_request({"body": {"image": text}}, "application/json", ParseContext(DEFAULTS)).images
    assert item.image in (b"picture", b"\xfb\xff?")


@pytest.mark.parametrize("text", ["data:image/png,picture", "a", "====", "ab§=", "data:"])
def test_what_is_no_base64(text):
    [item] = parse_request({"body": {"image": text}}, "application/json", ParseContext(DEFAULTS)).images
    assert isinstance(item, MalformedJSON)


def test_a_data_url_and_json_that_torchserve_left_as_bytes():
    for body in ({"image": f"data:image/jpeg;base64,{ENCODED}"}, json.dumps({"image": ENCODED}).encode()):
        request = parse_request({"body": body}, "application/json; charset=utf-8", ParseContext(DEFAULTS))
        assert request.images == [ImageRequest(b"picture", DEFAULTS)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, DEFAULTS),
        ({"beam_size": 10, "num_captions": "10"}, GenerationConfig(beam_size=10, num_captions=10)),
        ({"length_penalty": b"0"}, GenerationConfig(length_penalty=0.0)),
        ({"length_penalty": 1}, GenerationConfig(length_penalty=1.0)),
        ({"min_length": bytearray(b"5"), "max_length": 5.0}, GenerationConfig(min_length=5, max_length=5)),
        ({"no_repeat_ngram": 3, "attention": True}, GenerationConfig(no_repeat_ngram=3, attention=True)),
        ({"temperature": b"0.5", "top_p": 0.9, "seed": "7"}, GenerationConfig(temperature=0.5, top_p=0.9, seed=7)),
        ({"temperature": 1, "num_captions": 10}, GenerationConfig(temperature=1.0, num_captions=10)),
        ({"attention": bytearray(b"false")}, DEFAULTS),
    ],
)
def test_options(fields, expected):
    assert parse_options(fields, DEFAULTS) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beam_size": 0}, "beam_size must be an integer from 1 to 10, not 0."),
        ({"beam_size": 11}, "beam_size must be an integer from 1 to 10, not 11."),
        ({"beam_size": 2.5}, "beam_size must be an integer from 1 to 10, not 2.5."),
        ({"beam_size": True}, "beam_size must be an integer from 1 to 10, not true."),
        ({"beam_size": b"\xff"}, "beam_size must be an integer from 1 to 10, not \ufffd."),
        ({"beam_size": [[[1]]]}, "beam_size must be an integer from 1 to 10, not a list."),
        ({"beam_size": None}, "beam_size must be an integer from 1 to 10, not null."),
        ({"beam_size": "9" * 400}, f"beam_size must be an integer from 1 to 10, not {'9' * 40}…."),
        ({"length_penalty": "nan"}, "length_penalty must be a number from 0 to 2, not nan."),
        ({"length_penalty": "inf"}, "length_penalty must be a number from 0 to 2, not inf."),
        ({"beam_size": b""}, "beam_size must be an integer from 1 to 10, not ''."),
        ({"beam_size": "1_0"}, "beam_size must be an integer from 1 to 10, not 1_0."),
        ({"max_length": 51}, "max_length must be an integer from 1 to 50, not 51."),
        ({"attention": "yes"}, "attention must be true or false, not yes."),
        ({"attention": 1}, "attention must be true or false, not 1."),
        ({"temperature": 6}, "temperature must be 0 or a number from 0.01 to 5, not 6."),
        ({"top_p": 0}, "top_p must be a number from 0.01 to 1, not 0."),
        ({"top_p": 0.5}, "top_p needs sampling: set temperature above 0."),
        ({"seed": 2**32}, "seed must be an integer from 0 to 4294967295, not 4294967296."),
        ({"min_length": 21}, "min_length (21) must not exceed max_length (20)."),
        ({"num_captions": 6}, "num_captions (6) must not exceed beam_size (5): beam search finds no more captions."),
    ],
)
def test_options_out_of_range(fields, message):
    with pytest.raises(OptionOutOfRange) as caught:
        parse_options(fields, DEFAULTS)
    assert caught.value.message == message


def test_an_unknown_option_names_those_there_are():
    with pytest.raises(
        UnknownOption, match=r"Unknown option 'beams'\. Valid options: beam_size, .* in the field 'image'"
    ):
        parse_options({"beams": 3}, DEFAULTS)


@pytest.mark.parametrize("image", ["data:;base64,", "data:image/png;base64, \n", " \n\t"])
def test_base64_of_nothing_is_no_picture(image):
    [item] = parse_request({"body": {"image": image}}, "application/json", ParseContext(DEFAULTS)).images
    assert isinstance(item, EmptyBody)

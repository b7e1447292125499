"""Fields as TorchServe hands them over: raw bodies, forms and JSON."""

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
from handler.serving.parsing import parse_request
from handler.serving.settings import Settings
from tests.adversarial.image_parts import small_image

DEFAULTS = GenerationConfig()
ENCODED = base64.b64encode(b"image").decode()
PNG = small_image("PNG")
BASE64 = base64.b64encode(PNG).decode()
JSON_TEXT = json.dumps({"image": BASE64, "beam_size": 2})
FORM = "application/x-www-form-urlencoded"
TWO_BEAMS = GenerationConfig(beam_size=2)


@pytest.mark.parametrize(
    ("row", "content_type", "options"),
    [
        ({"body": bytearray(b"image")}, "image/jpeg", DEFAULTS),
        ({"body": bytearray(b"image")}, "", DEFAULTS),
        ({"image": bytearray(b"image")}, "multipart/form-data; boundary=x", DEFAULTS),
        ({"data": bytearray(b"image")}, "", DEFAULTS),
        ({"image": bytearray(b"image"), "beam_size": bytearray(b"3")}, "", GenerationConfig(beam_size=3)),
        ({"body": {"image": ENCODED}}, "application/json", DEFAULTS),
        ({"body": {"image": f"{ENCODED[:5]}\n{ENCODED[5:]}\n"}}, "application/json", DEFAULTS),
        (
            {"body": {"image": ENCODED, "max_length": 9}},
            "Application/JSON; charset=utf-8",
            GenerationConfig(max_length=9),
        ),
    ],
)
def test_parse_request_finds_a_single_image(row, content_type, options):
    request = parse_request(row, content_type, ParseContext(DEFAULTS))
    assert isinstance(request, SingleImageRequest)
    assert request.images == [ImageRequest(b"image", options)]
    assert not request.stream


@pytest.mark.parametrize(
    ("row", "content_type", "error"),
    [
        ({}, "", EmptyBody),
        ({"body": bytearray()}, "image/jpeg", EmptyBody),
        ({"beam_size": bytearray(b"3")}, "", EmptyBody),
        ({"file": bytearray(b"image")}, "", UnknownOption),
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
def test_parse_request_that_is_not_valid_returns_its_error(row, content_type, error):
    request = parse_request(row, content_type, ParseContext(DEFAULTS))
    assert isinstance(request, SingleImageRequest)
    assert [type(item) for item in request.images] == [error]


@pytest.mark.parametrize(
    ("row", "content_type", "options"),
    [
        # JSON, whatever it is declared to be
        *(
            ({"body": body}, content_type, TWO_BEAMS)
            for content_type in ("", "application/octet-stream", "application/vnd.api+json", "text/plain", "image/jpeg")
            for body in (JSON_TEXT, JSON_TEXT.encode())
        ),
        ({"body": b"\xef\xbb\xbf" + JSON_TEXT.encode()}, "application/json", TWO_BEAMS),
        ({"body": "\ufeff" + JSON_TEXT}, "text/plain", TWO_BEAMS),
        ({"body": JSON_TEXT.encode("utf-16")}, "application/json", TWO_BEAMS),
        ({"body": JSON_TEXT.encode("utf-16-be")}, "", TWO_BEAMS),
        ({"body": b" \r\n\t" + JSON_TEXT.encode()}, "", TWO_BEAMS),
        # a JSON file as a field of a form, parsed by TorchServe or not, and in the gRPC map
        ({"data": json.loads(JSON_TEXT)}, "multipart/form-data", TWO_BEAMS),
        ({"image": JSON_TEXT.encode()}, "multipart/form-data", TWO_BEAMS),
        ({"data": JSON_TEXT.encode(), "max_length": b"9"}, "", GenerationConfig(beam_size=2, max_length=9)),
        # options of the query of `/models/…/invoke`
        ({"body": PNG, "beam_size": b"2"}, "image/png", TWO_BEAMS),
        ({"body": {"image": BASE64}, "beam_size": b"2"}, "application/json", TWO_BEAMS),
        # an image under any name
        ({"file": PNG}, "multipart/form-data", DEFAULTS),
        ({"beam_size": b"2", "photo.png": PNG}, "multipart/form-data", TWO_BEAMS),
        ({"image_bytes": PNG}, "", DEFAULTS),
        # base64 in place of bytes; a form turns + into a space
        ({"image": BASE64.encode()}, "multipart/form-data", DEFAULTS),
        ({"body": BASE64.encode() + b"\n"}, "", DEFAULTS),
        ({"body": BASE64}, "text/plain", DEFAULTS),
        ({"image": BASE64}, "multipart/form-data", DEFAULTS),  # of a part of text/plain
        ({"body": PNG, "model_name": b"captioner", "beam_size": b"2"}, "image/png", TWO_BEAMS),  # of /invocations
        ({"image": b"data:image/png;base64," + BASE64.encode()}, "", DEFAULTS),
        ({"data": BASE64.replace("+", " ").encode()}, FORM, DEFAULTS),
        # bytes as TensorFlow Serving writes them, and options as Vertex AI does
        ({"body": {"image": {"b64": BASE64}}}, "application/json", DEFAULTS),
        ({"body": {"image": BASE64, "parameters": {"beam_size": 2}}}, "application/json", TWO_BEAMS),
    ],
)
def test_parse_request_reads_what_clients_send(row, content_type, options):
    request = parse_request(row, content_type, ParseContext(DEFAULTS))
    assert isinstance(request, SingleImageRequest)
    assert request.images == [ImageRequest(PNG, options)]


def test_base64_of_the_image_has_the_characters_that_forms_change():
    assert "+" in BASE64
    assert "/" in BASE64


@pytest.mark.parametrize(
    ("row", "content_type", "error", "message"),
    [
        ({'{"image": "iVBO': b'="}'}, FORM, UnsupportedMedia, "Content-Type: application/json"),
        ({" [1": b"]"}, FORM, UnsupportedMedia, "Content-Type: application/json"),
        ({"\x89PNG\r\n": b""}, FORM, UnsupportedMedia, "curl -T photo.jpg"),
        ({"body": b"\x1f\x8b\x08\0"}, "application/json", UnsupportedMedia, "The body is compressed"),
        ({"body": b"\x1f\x8b\x08\0"}, "image/jpeg", UnsupportedMedia, "The body is compressed"),
        ({"body": {"url": "https://host/a.jpg"}}, "application/json", MalformedJSON, "URLs are not fetched"),
        ({"body": {"image_url": {"url": "https://x"}}}, "application/json", MalformedJSON, "URLs are not fetched"),
        ({"body": {"image": "https://host/a.jpg"}}, "application/json", MalformedJSON, "URLs are not fetched"),
        ({"body": {"data": "s3://bucket/k.jpg"}}, "application/json", MalformedJSON, "URLs are not fetched"),
        ({"body": {"image": "file:///etc/passwd"}}, "application/json", MalformedJSON, "URLs are not fetched"),
        ({"body": b"https://host/a.jpg"}, "", MalformedJSON, "URLs are not fetched"),
        ({"body": "https://host/a.jpg"}, "text/plain", UnsupportedMedia, "URLs are not fetched"),
        ({"url": b"https://host/a.jpg"}, FORM, MalformedJSON, "URLs are not fetched"),
        ({"image": b"gs://bucket/a.jpg"}, "multipart/form-data", MalformedJSON, "URLs are not fetched"),
        ({"body": {"image": "photos/a.jpg"}}, "application/json", MalformedJSON, "not valid base64"),
        ({"body": {"image": BASE64.replace("+", " ")}}, "application/json", MalformedJSON, "has spaces"),
        ({"body": {"image": BASE64, "parameters": [1]}}, "application/json", MalformedJSON, "'parameters' must be"),
        ({"body": {"image": BASE64, "beam_size": 2}, "beam_size": b"3"}, "application/json", MalformedJSON, "twice"),
        ({"image": JSON_TEXT.encode(), "beam_size": b"3"}, "", MalformedJSON, "twice"),
        ({"image": PNG, "file": PNG}, "multipart/form-data", UnknownOption, "Unknown option 'file'"),
        ({"a": PNG, "b": PNG}, "multipart/form-data", UnknownOption, "Unknown option 'b'"),
        ({"body": b"{broken"}, "image/jpeg", MalformedJSON, "cannot be parsed"),
        ({"body": b'{"binary_data_size": 3}\0\0\0'}, "", MalformedJSON, "Tensors in binary are not read"),
        ({"body": BASE64.replace("+", " ")}, "text/plain", MalformedJSON, "has spaces"),
        ({"image": "a dog"}, "multipart/form-data", UnsupportedMedia, "The field 'image' holds text"),
    ],
)
def test_parse_request_that_cannot_work_says_what_would(row, content_type, error, message):
    [item] = parse_request(row, content_type, ParseContext(DEFAULTS)).images
    assert isinstance(item, error)
    assert message in str(item)
    assert str(item).endswith(".")


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
def test_parse_request_with_a_list_returns_an_entry_per_image(fields, items, form):
    """In JSON, and in a form or the gRPC map, whose fields hold JSON text."""
    row = {"body": fields}
    if form:
        row = {name: json.dumps(value).encode() for name, value in fields.items()}
        if "image" in fields:
            row["image"] = b"image"
    request = parse_request(
        row, "" if form else "application/json", ParseContext(DEFAULTS, Settings(max_bytes=100, max_images=8))
    )
    expected = [ImageRequest(b"image", item) if isinstance(item, GenerationConfig) else item for item in items]
    assert [type(item) if isinstance(item, Exception) else item for item in request.images] == expected


@pytest.mark.parametrize("value", [True, "true", b"true"])
def test_parse_request_with_stream_sets_it(value):
    row = {"image": b"image", "stream": value}
    request = parse_request(row, "", ParseContext(DEFAULTS))
    assert request.stream
    assert request.images == [ImageRequest(b"image", DEFAULTS)]


def test_parse_request_accepts_data_urls_and_json_as_bytes():
    for body in ({"image": f"data:image/jpeg;base64,{ENCODED}"}, json.dumps({"image": ENCODED}).encode()):
        request = parse_request({"body": body}, "application/json; charset=utf-8", ParseContext(DEFAULTS))
        assert request.images == [ImageRequest(b"image", DEFAULTS)]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"images": [ENCODED] * 3, "num_captions": 3}, OptionOutOfRange),  # 9 captions
        ({"images": [{"image": ENCODED, "overlay": True}]}, OptionOutOfRange),
        ({"image": ENCODED, "stream": True}, OptionOutOfRange),
        ({"image": ENCODED, "num_captions": 9, "beam_size": 9}, OptionOutOfRange),
    ],
)
def test_parse_request_for_too_many_explanations_returns_one_error(fields, error):
    context = ParseContext(DEFAULTS, Settings(max_explanations=8))
    request = parse_request({"body": fields}, "application/json", context, explain=True)
    assert [type(image) for image in request.images] == [error]

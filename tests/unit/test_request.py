"""Rows as TorchServe hands them over, and the options in them."""

import base64

import pytest

from handler.errors import EmptyBody, MalformedJSON, OptionOutOfRange, UnknownOption, UnsupportedMedia
from handler.options import parse_options
from handler.request import parse_request
from handler.search import SearchOptions

DEFAULTS = SearchOptions()
ENCODED = base64.b64encode(b"picture").decode()


@pytest.mark.parametrize(
    ("row", "content_type", "options"),
    [
        ({"body": bytearray(b"picture")}, "image/jpeg", DEFAULTS),
        ({"body": bytearray(b"picture")}, "", DEFAULTS),
        ({"image": bytearray(b"picture")}, "multipart/form-data; boundary=x", DEFAULTS),
        ({"data": bytearray(b"picture")}, "", DEFAULTS),
        ({"image": bytearray(b"picture"), "beam_size": bytearray(b"3")}, "", SearchOptions(beam_size=3)),
        ({"body": {"image": ENCODED}}, "application/json", DEFAULTS),
        ({"body": {"image": f"{ENCODED[:5]}\n{ENCODED[5:]}\n"}}, "application/json", DEFAULTS),
        ({"body": {"image": ENCODED, "max_length": 9}}, "Application/JSON; charset=utf-8", SearchOptions(max_length=9)),
    ],
)
def test_where_a_picture_may_stand(row, content_type, options):
    assert parse_request(row, content_type, DEFAULTS) == (b"picture", options)


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
    with pytest.raises(error):
        parse_request(row, content_type, DEFAULTS)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, DEFAULTS),
        ({"beam_size": 10, "num_captions": "10"}, SearchOptions(beam_size=10, num_captions=10)),
        ({"length_penalty": b"0"}, SearchOptions(length_penalty=0.0)),
        ({"length_penalty": 1}, SearchOptions(length_penalty=1.0)),
        ({"min_length": bytearray(b"5"), "max_length": 5.0}, SearchOptions(min_length=5, max_length=5)),
        ({"no_repeat_ngram": 3, "attention": True}, SearchOptions(no_repeat_ngram=3, attention=True)),
        ({"attention": bytearray(b"false")}, DEFAULTS),
    ],
)
def test_options(fields, expected):
    assert parse_options(fields, DEFAULTS) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beam_size": 0}, "beam_size is a whole number from 1 to 10, not 0."),
        ({"beam_size": 11}, "beam_size is a whole number from 1 to 10, not 11."),
        ({"beam_size": 2.5}, "beam_size is a whole number from 1 to 10, not 2.5."),
        ({"beam_size": True}, "beam_size is a whole number from 1 to 10, not True."),
        ({"beam_size": b"\xff"}, "beam_size is a whole number from 1 to 10, not \ufffd."),
        ({"beam_size": [[[1]]]}, "beam_size is a whole number from 1 to 10, not a list."),
        ({"beam_size": None}, "beam_size is a whole number from 1 to 10, not None."),
        ({"beam_size": "9" * 400}, f"beam_size is a whole number from 1 to 10, not {'9' * 40}…."),
        ({"length_penalty": "nan"}, "length_penalty is a number from 0.0 to 2.0, not nan."),
        ({"length_penalty": "inf"}, "length_penalty is a number from 0.0 to 2.0, not inf."),
        ({"max_length": 51}, "max_length is a whole number from 1 to 50, not 51."),
        ({"attention": "yes"}, "attention is true or false, not yes."),
        ({"attention": 1}, "attention is true or false, not 1."),
        ({"min_length": 21}, "min_length is 21, more than max_length, 20."),
        ({"num_captions": 6}, "num_captions is 6, more than beam_size, 5: a beam finds no more captions."),
    ],
)
def test_options_out_of_range(fields, message):
    with pytest.raises(OptionOutOfRange) as caught:
        parse_options(fields, DEFAULTS)
    assert caught.value.message == message


def test_an_unknown_option_names_those_there_are():
    with pytest.raises(
        UnknownOption, match=r"no option 'beams': choose among beam_size, .* a picture's field is 'image'"
    ):
        parse_options({"beams": 3}, DEFAULTS)

"""What can be known of a raw request."""

import pytest

from tests.helpers.raw_requests import raw_request


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/html", "text/html"),
        ("application/json, text/html;q=0.9", "application/json"),
        ("text/HTML, application/json", "text/html"),
        ("*/*", None),
        ("", None),
    ],
)
def test_preferred_media_type_is_the_one_named_first(accept, expected):
    request = raw_request({}, {"accept": accept})
    assert request.preferred_media_type("text/html", "application/json") == expected


@pytest.mark.parametrize(
    ("fields", "headers", "http", "expected"),
    [
        ({"body": b""}, {}, True, True),
        ({"body": b"x"}, {}, True, False),
        ({"body": b""}, {"content-type": "image/jpeg"}, True, False),
        ({"body": b""}, {"explain": "True"}, True, False),
        ({}, {}, False, False),  # gRPC
    ],
)
def test_is_get_is_inferred_from_the_missing_body(fields, headers, http, expected):
    assert raw_request(fields, headers, http=http).is_get is expected

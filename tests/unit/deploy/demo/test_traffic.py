"""The clients of the demonstration count lost and wrong captions, and retries."""

import pytest

from deploy.demo.traffic import Traffic

EXPECTED = {"1.0": {"a": "a dog", "b": "a cat"}}
IMAGES = {"a": b"a", "b": b"b"}
JSON = "application/json"


def captioned(caption: str, version: str = "1.0") -> tuple[int, str, dict]:
    return 200, JSON, {"caption": caption, "model": {"version": version}}


def traffic(endpoint, requests: int) -> Traffic:
    with Traffic(endpoint.url, IMAGES, EXPECTED, num_clients=1) as traffic:
        traffic.wait(requests=requests)
    return traffic


@pytest.mark.parametrize(
    ("respond", "matches", "wrong"),
    [
        (lambda number, body: captioned("a dog" if body == b"a" else "a cat"), True, False),
        (lambda number, body: captioned("a dog"), False, True),
        (lambda number, body: captioned("a dog" if body == b"a" else "a cat", "2.0"), False, True),
    ],
    ids=["the expected captions", "the caption of another image", "a version without expected captions"],
)
def test_traffic_compares_captions_with_the_expected_ones(serve, respond, matches, wrong):
    observed = traffic(serve(respond), 4)
    assert observed.lost == 0
    assert (observed.wrong > 0) == wrong
    assert all(result.matches for result in observed.results) == matches


def test_traffic_retries_and_counts_a_failed_first_attempt(serve):
    def respond(number, body):
        return (503, "text/plain", b"") if number == 1 else captioned("a dog" if body == b"a" else "a cat")

    observed = traffic(serve(respond), 3)
    assert (observed.lost, observed.wrong, dict(observed.errors)) == (0, 0, {"Busy 503": 1})


def test_traffic_counts_a_request_without_any_caption_as_lost(serve):
    refusal = {"code": 500, "type": "InternalServerException", "message": "Worker died."}
    observed = traffic(serve(lambda number, body: (500, JSON, refusal)), 2)
    assert observed.lost == len(observed.results) >= 2
    assert set(observed.errors) == {"InternalServerException 500"}

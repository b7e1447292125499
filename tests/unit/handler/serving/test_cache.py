"""The cache of captions, alone and behind the endpoint."""

import json

import pytest

from handler.captioner import Caption
from handler.generation import GenerationConfig
from handler.serving.cache import ResultCache
from handler.serving.endpoint import Endpoint
from handler.serving.messages import ExplainOptions, ImageRequest
from handler.serving.settings import Settings
from tests.helpers.raw_requests import IMAGES, MODEL, raw_request, stream_tokens


def caption(text: str) -> list[Caption]:
    return [Caption(text, -1.0, [text], [-1.0, -1.0])]


def request(image: bytes = b"x", explain: ExplainOptions | None = None, **options) -> ImageRequest:
    return ImageRequest(image, GenerationConfig(**options), explain)


def test_cache_drops_the_least_recently_used_entry():
    cache = ResultCache(2)
    keys = [cache.key(request(image)) for image in (b"a", b"b", b"c")]
    cache.put(keys[0], caption("a"))
    cache.put(keys[1], caption("b"))
    assert cache.get(keys[0]) == caption("a")  # now used after b
    cache.put(keys[2], caption("c"))
    assert [cache.get(key) for key in keys] == [caption("a"), None, caption("c")]


@pytest.mark.parametrize(
    ("image_request", "cached"),
    [
        (request(), True),
        (request(temperature=1.0, seed=3), True),
        (request(temperature=1.0), False),  # other captions every time
        (request(explain=ExplainOptions("attention")), False),
    ],
)
def test_cache_key_is_none_for_requests_that_must_not_be_cached(image_request, cached):
    assert (ResultCache(2).key(image_request) is not None) is cached
    assert ResultCache(0).key(image_request) is None


def test_cache_key_differs_by_image_and_options():
    cache = ResultCache(1)
    keys = {cache.key(one) for one in (request(), request(), request(b"y"), request(beam_size=1))}
    assert len(keys) == 3


def test_endpoint_with_cache_counts_hits_and_streams_cached_tokens(captioner):
    endpoint = Endpoint(captioner, MODEL, Settings(cache_entries=2))

    def outcomes(*rows):
        responses, stats = endpoint.handle_batch([raw_request(row) for row in rows])
        bodies = [response.body for response in responses]
        return [request.outcomes[0] for request in stats.requests], stats.cache_hits, stats.cache_misses, bodies

    first = outcomes({"body": IMAGES[0]}, {"body": IMAGES[1]})
    assert first[:3] == (["ok", "ok"], 0, 2)
    assert outcomes({"body": IMAGES[0]})[:3] == (["cached"], 1, 0)
    assert outcomes({"body": IMAGES[0]})[3] == first[3][:1]
    assert outcomes({"image": IMAGES[0], "beam_size": b"1"})[0] == ["ok"]  # IMAGES[1] makes room
    assert outcomes({"body": IMAGES[0]}, {"body": IMAGES[1]})[0] == ["cached", "ok"]
    assert outcomes({"body": b"x"})[:3] == (["InvalidImage"], 0, 1)
    sampled = {"image": IMAGES[0], "temperature": b"1"}
    assert outcomes(sampled)[1:3] == (0, 0)  # not looked up
    assert [outcomes(sampled | {"seed": b"3"})[0] for _ in range(2)] == [["ok"], ["cached"]]
    chunks = []
    [response], _ = endpoint.handle_batch([raw_request(sampled | {"seed": b"3", "stream": b"true"}, chunks=chunks)])
    assert stream_tokens(chunks) == json.loads(response.body.partition("data: ")[2])["captions"][0]["tokens"]


def test_endpoint_without_cache_looks_nothing_up(captioner):
    _, stats = Endpoint(captioner, MODEL).handle_batch([raw_request({"body": IMAGES[0]})])
    assert stats.cache_misses == 0

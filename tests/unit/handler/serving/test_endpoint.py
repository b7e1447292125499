"""The endpoint without TorchServe: all protocols in one batch, documents, streams and errors."""

import base64
import json
from io import BytesIO

import pytest
from PIL import Image

from handler.generation import GenerationConfig
from handler.serving.endpoint import Endpoint
from handler.serving.parsing import parse_request
from handler.serving.settings import Settings
from tests.helpers.raw_requests import ENCODED, IMAGES, MODEL, json_request, raw_request, respond, stream_tokens

TENSOR = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ENCODED[:1]}
STREAM = {"image": IMAGES[0], "stream": b"true"}


def after_data(event: str) -> dict:
    """Content of a server-sent event."""
    return json.loads(event.partition("data: ")[2])


def test_handle_batch_with_every_protocol_gives_the_same_caption(endpoint, captioner):
    [[expected]] = captioner.caption(IMAGES[:1])
    tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": ENCODED[:1]}
    chunks = []
    responses = respond(
        endpoint,
        raw_request({"body": bytearray(IMAGES[0])}),
        raw_request({"image": bytearray(IMAGES[0])}),
        json_request({"image": ENCODED[0]}),
        json_request({"instances": [{"b64": ENCODED[0]}, ENCODED[1]]}),
        json_request({"inputs": [tensor], "id": "7"}),
        raw_request(STREAM, chunks=chunks),
        raw_request({"data": bytearray(IMAGES[0])}, http=False),
    )
    assert [status for status, _ in responses] == [200] * 7
    raw, form, body, multiple, tensors, last_event, grpc = [content for _, content in responses]
    prediction = {"caption": expected.text, "captions": raw["captions"]}
    assert raw == prediction | {"model": MODEL, "request_id": "id"}
    assert raw["captions"][0]["score"] == pytest.approx(expected.score, abs=1e-4)
    assert raw == form == body == grpc
    assert multiple["predictions"][0] == prediction
    assert len(multiple["predictions"]) == 2
    assert tensors["id"] == "7"
    caption, response = tensors["outputs"]
    assert caption == {"name": "caption", "datatype": "BYTES", "shape": [1], "data": [expected.text]}
    assert json.loads(response["data"][0]) == prediction
    assert last_event == f"event: response\ndata: {json.dumps(raw)}\n\n"
    assert chunks == [f'event: token\ndata: {{"token": "{token}"}}\n\n' for token in expected.tokens]


def test_handle_batch_with_invalid_images_puts_each_error_in_its_place(endpoint):
    buffer = BytesIO()
    Image.new("L", (1000, 1001)).save(buffer, "PNG")
    too_large = base64.b64encode(buffer.getvalue()).decode()
    invalid = [base64.b64encode(b"no image").decode(), too_large, "§"]
    errors = [(422, "InvalidImage"), (413, "TooManyPixels"), (400, "MalformedJSON")]
    [(status, body)] = respond(endpoint, json_request({"images": [ENCODED[0], *invalid, ENCODED[1]]}))
    assert status == 200
    assert [(p.get("code"), p.get("type")) for p in body["predictions"]] == [(None, None), *errors, (None, None)]
    [(status, body)] = respond(endpoint, json_request({"images": invalid}))
    assert status == 422  # of the first error
    assert [(p["code"], p["type"]) for p in body["predictions"]] == errors
    tensor = {"name": "x", "shape": [2], "datatype": "BYTES", "data": [invalid[0], ENCODED[0]]}
    [(status, body)] = respond(endpoint, json_request({"inputs": [tensor]}))
    assert status == 200
    assert body["outputs"][0]["data"][0] == ""
    assert json.loads(body["outputs"][1]["data"][0])["type"] == "InvalidImage"
    [(status, body)] = respond(endpoint, json_request({"inputs": [tensor | {"data": invalid[:1], "shape": [1]}]}))
    assert (status, body["type"], body["error"]) == (422, "InvalidImage", body["message"])


def test_handle_batch_with_streams_and_others_answers_each(endpoint, captioner):
    chunks, no_chunks = [], []
    responses = respond(
        endpoint,
        raw_request({"body": IMAGES[1]}),
        raw_request(STREAM | {"beam_size": b"1"}, chunks=chunks),
        raw_request(STREAM | {"image": b"no image"}, chunks=no_chunks),
        raw_request({"body": IMAGES[2]}),
    )
    assert [status for status, _ in responses] == [200, 200, 422, 200]
    assert responses[2][1]["type"] == "InvalidImage"
    assert no_chunks == []
    [[expected]] = captioner.caption(IMAGES[:1], GenerationConfig(beam_size=1, max_length=8))
    assert stream_tokens(chunks) == expected.tokens
    assert after_data(responses[1][1])["caption"] == expected.text
    assert responses[0][1]["caption"] == captioner.caption(IMAGES[1:2])[0][0].text


@pytest.mark.parametrize("trusted", [False, True])
def test_handle_batch_streams_over_grpc_only_if_the_settings_allow_it(captioner, trusted):
    chunks = []
    endpoint = Endpoint(captioner, MODEL, Settings(grpc_streaming=trusted))
    [response], _ = endpoint.handle_batch([raw_request(STREAM, http=False, chunks=chunks)])
    content = json.loads(response.body)  # plain JSON, not an event
    assert content["caption"]
    assert [json.loads(chunk)["token"] for chunk in chunks] == (content["captions"][0]["tokens"] if trusted else [])


def test_sampling_without_seed_returns_a_seed_that_reproduces_the_captions(endpoint):
    fields = {"image": IMAGES[0], "temperature": b"2", "num_captions": b"5"}
    [(_, first), (_, second)] = respond(endpoint, raw_request(fields), raw_request(fields))
    assert first["seed"] != second["seed"]
    again = raw_request(fields | {"seed": str(first["seed"]).encode()})
    repeated = respond(endpoint, raw_request({"body": IMAGES[1]}), again)[1][1]["captions"]
    assert [caption["tokens"] for caption in repeated] == [caption["tokens"] for caption in first["captions"]]
    for new, old in zip(repeated, first["captions"], strict=True):  # rounded; a batch may differ in the last bits
        assert new["token_logprobs"] == pytest.approx(old["token_logprobs"], abs=1e-4)
    assert "seed" not in respond(endpoint, raw_request({"body": IMAGES[1]}))[0][1]


def test_search_that_starts_over_streams_no_token_twice(captioner, monkeypatch):
    real, batches = captioner.caption_features, []

    def caption_features(features, *arguments):
        batches.append(len(features))
        captions = real(features, *arguments)
        if len(features) > 1:
            raise RuntimeError("after all tokens were sent")
        return captions

    monkeypatch.setattr(captioner, "caption_features", caption_features)
    chunks = []
    stream = raw_request(STREAM, chunks=chunks)
    [(_, last_event), _] = respond(Endpoint(captioner, MODEL), stream, raw_request({"body": IMAGES[1]}))
    assert batches == [2, 1, 1]
    assert stream_tokens(chunks) == after_data(last_event)["captions"][0]["tokens"]


def test_stream_that_fails_after_its_first_token_ends_with_the_error(captioner, monkeypatch):
    real = captioner.caption_features

    def caption_features(*arguments):
        real(*arguments)
        raise RuntimeError("after all tokens were sent")

    monkeypatch.setattr(captioner, "caption_features", caption_features)
    chunks = []
    [(status, last_event)] = respond(Endpoint(captioner, MODEL), raw_request(STREAM, chunks=chunks))
    assert status == 200  # it was sent with the first token
    assert chunks
    assert last_event.startswith("event: error\n")
    assert after_data(last_event)["type"] == "InternalError"


def test_stream_that_cannot_be_sent_fails_alone(captioner):
    endpoint = Endpoint(captioner, MODEL, Settings(cache_entries=1))

    def fail(chunk: str) -> None:
        raise BrokenPipeError

    broken, plain = raw_request(STREAM)._replace(send_chunk=fail), raw_request({"body": IMAGES[0]})
    for _ in range(2):  # captioned, then cached
        assert [status for status, _ in respond(endpoint, broken, plain)] == [500, 200]


def test_request_that_raises_while_it_is_parsed_fails_alone(captioner, monkeypatch):
    def parse(fields, *arguments, **options):
        if fields["body"] == b"odd":
            raise ZeroDivisionError
        return parse_request(fields, *arguments, **options)

    monkeypatch.setattr("handler.serving.endpoint.parse_request", parse)
    odd, good = raw_request({"body": b"odd"}), raw_request({"body": IMAGES[0]})
    responses = respond(Endpoint(captioner, MODEL), odd, good)
    assert [status for status, _ in responses] == [500, 200]


@pytest.mark.parametrize(
    ("fields", "headers", "http", "expected"),
    [
        ({"body": b""}, {"accept": "application/json"}, True, "openapi"),
        ({"body": b""}, {"accept": "application/json, text/html;q=0.9"}, True, "openapi"),
        ({"body": b""}, {"accept": "*/*"}, True, "type"),
        ({"body": b""}, {"accept": "application/json", "content-type": "image/jpeg"}, True, "type"),
        ({}, {}, False, "type"),
        ({}, {"describe": "True"}, True, "card"),
        ({"body": b""}, {"accept": "text/html", "explain": "True"}, True, "type"),
    ],
)
def test_request_without_body_gets_a_document_or_an_error(endpoint, fields, headers, http, expected):
    [(_, body)] = respond(endpoint, raw_request(fields, headers, http=http))
    assert expected in body
    assert body.get("type", "EmptyBody") == "EmptyBody"


@pytest.mark.parametrize(
    "accept", ["text/html", "text/html,application/xhtml+xml,*/*;q=0.8", "text/HTML, application/json"]
)
def test_request_of_a_browser_gets_the_demo_page(endpoint, accept):
    [response], stats = endpoint.handle_batch([raw_request({"body": b""}, {"accept": accept})])
    assert (response.status, response.content_type, stats.requests) == (200, "text/html; charset=utf-8", [])
    assert response.body == endpoint.page.html
    assert "Content-Security-Policy" in response.headers


def test_handle_batch_counts_each_inference_request(captioner):
    endpoint = Endpoint(captioner, MODEL, Settings(cache_entries=2))
    endpoint.handle_batch([raw_request({"body": IMAGES[0]})])
    _, stats = endpoint.handle_batch(
        [
            json_request({"images": [ENCODED[0], "§", ENCODED[1]]}, {"traceparent": "x"}),
            raw_request({}, {"describe": "True"}),
            raw_request(STREAM | {"image": IMAGES[2]}, http=True),
        ]
    )
    several, stream = stats.requests
    assert several.outcomes == ["cached", "MalformedJSON", "ok"]
    assert several.image_bytes == len(IMAGES[0]) + len(IMAGES[1])
    assert [bool(caption) for caption in several.captions] == [True, False, True]
    assert (several.request_id, several.is_http, several.status, several.traceparent) == ("id", True, 200, "x")
    assert (several.streamed, stream.streamed) == (False, True)
    assert several.decode_seconds > 0
    assert (stats.batch_sizes, stats.cache_hits, stats.cache_misses) == ([2], 1, 2)
    assert stats.seconds > sum(stats.encode_seconds) + sum(stats.search_seconds) > 0


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"id": "", "model_name": "captioner", "inputs": [TENSOR]}, None),
        ({"id": "7", "model_name": "captioner", "inputs": [TENSOR | {"data": ["§"]}]}, "MalformedJSON"),
        ({"id": "", "model_name": "captioner", "inputs": []}, "MalformedJSON"),
        ({"id": "", "model_name": "captioner"}, "UnknownOption"),
    ],
)
def test_open_inference_over_grpc_is_answered_with_all_fields_that_torchserve_reads(endpoint, fields, error):
    """TorchServe hands on a parsed body, and ends the worker if a field of the response is missing."""
    [(_, content)] = respond(endpoint, raw_request({"body": fields}, http=False))
    assert content["id"] == fields["id"]
    assert (content["model_name"], content["model_version"]) == ("captioner", "1.0")
    caption, response = content["outputs"]
    assert caption["shape"] == [1]
    assert json.loads(response["data"][0]).get("type") == error
    assert (caption["data"] == [""]) == (error is not None)


def test_score_that_is_not_finite_is_an_internal_error(endpoint, captioner, monkeypatch):
    """JSON has no NaN. The weights of a bundle are checked when it is loaded; a layer may still overflow."""
    encode = captioner.encode
    monkeypatch.setattr(captioner, "encode", lambda pixels: encode(pixels) * float("nan"))
    [(status, body)] = respond(endpoint, raw_request({"body": IMAGES[0], "beam_size": b"1"}))
    assert (status, body["type"]) == (500, "InternalError")

"""The endpoint without TorchServe: every way to ask in one batch, streams, the cache, and batches that fail."""

import base64
import json
import weakref
from io import BytesIO

import pytest
import torch
from PIL import Image

from handler.captioner import Captioner
from handler.generation import GenerationConfig
from handler.image import to_upright_rgb
from handler.serving.endpoint import Endpoint
from handler.serving.messages import EVENT_STREAM, RawRequest
from handler.serving.parsing import parse_request
from handler.serving.settings import Settings
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS

SMALL = [photo.read_bytes() for photo in PHOTOS if photo.stem in ("astronaut", "cat", "coffee")]
ENCODED = [base64.b64encode(picture).decode() for picture in SMALL]
MODEL = {"name": "captioner", "version": "1.0", "digest": "sha256:0"}
JSON_BODY = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return Captioner.load(write_tiny_bundle(tmp_path_factory.mktemp("model")))


@pytest.fixture
def endpoint(captioner):
    return Endpoint(captioner, MODEL, Settings(max_pixels=1_000_000))


class Asked:
    """A call, and the parts of its answer that were sent."""

    def __init__(self, row, headers=None, http=True):
        self.parts = []
        self.call = RawRequest(row, ({"host": "x"} if http else {}) | (headers or {}), "id", self.parts.append)


def ask(endpoint, *asked):
    """Each call's code and answer, as JSON where it is no stream."""
    answers, _ = endpoint.handle_batch([one.call for one in asked])
    return [
        (answer.status, answer.body if answer.content_type == EVENT_STREAM else json.loads(answer.body))
        for answer in answers
    ]


def test_every_way_to_ask_in_one_batch_gives_the_same_caption(endpoint, captioner):
    [[expected]] = captioner.caption(SMALL[:1])
    tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": ENCODED[:1]}
    stream = Asked({"image": SMALL[0], "stream": b"true"})
    answers = ask(
        endpoint,
        Asked({"body": bytearray(SMALL[0])}),
        Asked({"image": bytearray(SMALL[0])}),
        Asked({"body": {"image": ENCODED[0]}}, JSON_BODY),
        Asked({"body": {"instances": [{"b64": ENCODED[0]}, ENCODED[1]]}}, JSON_BODY),
        Asked({"body": {"inputs": [tensor], "id": "7"}}, JSON_BODY),
        stream,
        Asked({"data": bytearray(SMALL[0])}, http=False),
    )
    assert [code for code, _ in answers] == [200] * 7
    raw, form, body, several, tensors, last, grpc = [content for _, content in answers]
    described = {"caption": expected.text, "captions": raw["captions"]}
    assert raw == described | {"model": MODEL, "request_id": "id"}
    assert raw["captions"][0]["score"] == pytest.approx(expected.score, abs=1e-4)
    assert raw == form == body == grpc
    assert several["predictions"][0] == described
    assert len(several["predictions"]) == 2
    assert tensors["id"] == "7"
    assert tensors["outputs"][0] == {
        "name": "caption", "datatype": "BYTES", "shape": [1], "data": [expected.text],
    }  # fmt: skip
    assert json.loads(tensors["outputs"][1]["data"][0]) == described
    assert last == f"event: response\ndata: {json.dumps(raw)}\n\n"
    assert stream.parts == [f'event: token\ndata: {{"token": "{token}"}}\n\n' for token in expected.tokens]


def test_a_bad_picture_among_several_is_told_in_its_place(endpoint):
    stream = BytesIO()
    Image.new("L", (1000, 1001)).save(stream, "PNG")
    large = base64.b64encode(stream.getvalue()).decode()
    bad = [base64.b64encode(b"no picture").decode(), large, "§"]
    kinds = [(422, "InvalidImage"), (413, "TooManyPixels"), (400, "MalformedJSON")]
    [(code, body)] = ask(endpoint, Asked({"body": {"images": [ENCODED[0], *bad, ENCODED[1]]}}, JSON_BODY))
    assert code == 200
    assert [(p.get("code"), p.get("type")) for p in body["predictions"]] == [(None, None), *kinds, (None, None)]
    [(code, body)] = ask(endpoint, Asked({"body": {"images": bad}}, JSON_BODY))
    assert code == 422  # the first one's
    assert [(p["code"], p["type"]) for p in body["predictions"]] == kinds
    tensor = {"name": "x", "shape": [2], "datatype": "BYTES", "data": [bad[0], ENCODED[0]]}
    [(code, body)] = ask(endpoint, Asked({"body": {"inputs": [tensor]}}, JSON_BODY))
    assert code == 200
    assert body["outputs"][0]["data"][0] == ""
    assert json.loads(body["outputs"][1]["data"][0])["type"] == "InvalidImage"
    [(code, body)] = ask(endpoint, Asked({"body": {"inputs": [tensor | {"data": bad[:1], "shape": [1]}]}}, JSON_BODY))
    assert (code, body["type"], body["error"]) == (422, "InvalidImage", body["message"])


def test_streams_and_plain_calls_in_one_batch(endpoint, captioner):
    good = Asked({"image": SMALL[0], "stream": b"true", "beam_size": b"1"})
    bad = Asked({"image": b"no picture", "stream": b"true"})
    answers = ask(endpoint, Asked({"body": SMALL[1]}), good, bad, Asked({"body": SMALL[2]}))
    assert [code for code, _ in answers] == [200, 200, 422, 200]
    assert answers[2][1]["type"] == "InvalidImage"
    assert bad.parts == []
    [[expected]] = captioner.caption(SMALL[:1], GenerationConfig(beam_size=1, max_length=8))
    assert len(good.parts) == len(expected.tokens)
    assert json.loads(answers[1][1].partition("data: ")[2])["caption"] == expected.text
    assert answers[0][1]["caption"] == captioner.caption(SMALL[1:2])[0][0].text


def test_over_grpc_streams_are_for_whom_the_settings_trust(captioner):
    for trusted in (False, True):
        asked = Asked({"image": SMALL[0], "stream": b"true"}, http=False)
        answers, _ = Endpoint(captioner, MODEL, Settings(grpc_streaming=trusted)).handle_batch([asked.call])
        assert json.loads(answers[0].body)["caption"]  # bare JSON, no event
        tokens = [json.loads(part)["token"] for part in asked.parts]
        assert tokens == (json.loads(answers[0].body)["captions"][0]["tokens"] if trusted else [])


def test_a_drawn_seed_stands_in_the_answer_and_gives_the_same_again(endpoint):
    drawn = {"image": SMALL[0], "temperature": b"2", "num_captions": b"5"}
    [(_, first), (_, other)] = ask(endpoint, Asked(drawn), Asked(drawn))
    assert first["seed"] != other["seed"]
    again = Asked(drawn | {"seed": str(first["seed"]).encode()})
    repeated = ask(endpoint, Asked({"body": SMALL[1]}), again)[1][1]["captions"]
    assert [caption["tokens"] for caption in repeated] == [caption["tokens"] for caption in first["captions"]]
    for one, other in zip(repeated, first["captions"], strict=True):  # rounded, and a batch may differ in the last bits
        assert one["token_logprobs"] == pytest.approx(other["token_logprobs"], abs=1e-4)
    assert "seed" not in ask(endpoint, Asked({"body": SMALL[1]}))[0][1]


def test_more_pictures_than_are_decoded_together(captioner):
    endpoint = Endpoint(captioner, MODEL, Settings(max_batch_size=2))
    answers, batch = endpoint.handle_batch(
        [Asked({"body": {"images": ENCODED}}, JSON_BODY).call, Asked({"body": SMALL[0]}).call]
    )
    assert batch.batch_sizes == [2, 2]
    assert json.loads(answers[1].body)["caption"] == json.loads(answers[0].body)["predictions"][0]["caption"]


def test_the_cache_keeps_the_last_and_knows_the_options(captioner, monkeypatch):
    endpoint = Endpoint(captioner, MODEL, Settings(cache_entries=2))

    def outcomes(*rows):
        answers, batch = endpoint.handle_batch([Asked(row).call for row in rows])
        return (
            [request.outcomes[0] for request in batch.requests],
            batch.cache_hits,
            batch.cache_misses,
            [answer.body for answer in answers],
        )

    first = outcomes({"body": SMALL[0]}, {"body": SMALL[1]})
    assert first[:3] == (["ok", "ok"], 0, 2)
    assert outcomes({"body": SMALL[0]})[:3] == (["cached"], 1, 0)
    assert outcomes({"body": SMALL[0]})[3] == first[3][:1]
    assert outcomes({"image": SMALL[0], "beam_size": b"1"})[0] == ["ok"]  # SMALL[1] makes room: longest unused
    assert outcomes({"body": SMALL[0]}, {"body": SMALL[1]})[0] == ["cached", "ok"]
    assert outcomes({"body": b"x"})[:3] == (["InvalidImage"], 0, 1)
    drawn = {"image": SMALL[0], "temperature": b"1"}
    assert outcomes(drawn)[1:3] == (0, 0)  # never the same again: not looked up
    assert [outcomes(drawn | {"seed": b"3"})[0] for _ in range(2)] == [["ok"], ["cached"]]
    stream = Asked({"image": SMALL[0], "temperature": b"1", "seed": b"3", "stream": b"true"})
    [(_, last)] = ask(endpoint, stream)
    assert [json.loads(part[19:])["token"] for part in stream.parts] == json.loads(last[22:])["captions"][0]["tokens"]
    assert Endpoint(captioner, MODEL).handle_batch([Asked({"body": SMALL[0]}).call])[1].cache_misses == 0


def test_a_batch_that_fails_is_tried_in_halves_and_one_picture_alone_is_at_fault(captioner, monkeypatch, caplog):
    """Out of memory for four at once, and never enough for one of them: three captions, one error, no word twice."""
    real, asked_for, kept = captioner.caption_features, [], []
    poison = captioner.encode(captioner.preprocess(SMALL[2]).unsqueeze(0))

    def caption_features(grid, *rest):
        assert not any(ref() is not None for ref in kept)  # what failed has let its memory go
        asked_for.append(len(grid))
        if len(grid) > 2 or any(torch.allclose(one, poison[0], atol=1e-5) for one in grid):
            kept.append(weakref.ref(grid))
            raise MemoryError
        return real(grid, *rest)

    monkeypatch.setattr(captioner, "caption_features", caption_features)
    monkeypatch.setattr("handler.serving.batching.logger.exception", lambda *_: None)  # pytest keeps its frames
    stream = Asked({"image": SMALL[0], "stream": b"true"})
    plain = [Asked({"body": picture}) for picture in (SMALL[1], SMALL[2], SMALL[0])]
    answers = ask(Endpoint(captioner, MODEL), *plain[:2], stream, plain[2])
    assert asked_for == [4, 2, 1, 1, 2]
    assert [code for code, _ in answers] == [200, 507, 200, 200]
    assert answers[1][1]["type"] == "OutOfMemory"
    assert len(stream.parts) == len(answers[3][1]["captions"][0]["tokens"])


def test_a_search_begun_again_says_no_word_twice(captioner, monkeypatch):
    real, calls = captioner.caption_features, []

    def caption_features(grid, options, listeners):
        calls.append(len(grid))
        found = real(grid, options, listeners)
        if len(grid) > 1:
            raise RuntimeError("after all was said")
        return found

    monkeypatch.setattr(captioner, "caption_features", caption_features)
    stream = Asked({"image": SMALL[0], "stream": b"true"})
    [(_, last), _] = ask(Endpoint(captioner, MODEL), stream, Asked({"body": SMALL[1]}))
    assert calls == [2, 1, 1]
    tokens = json.loads(last.partition("data: ")[2])["captions"][0]["tokens"]
    assert [json.loads(part.partition("data: ")[2])["token"] for part in stream.parts] == tokens


def test_a_stream_that_fails_after_its_first_words_ends_with_the_error(captioner, monkeypatch, caplog):
    real = captioner.caption_features

    def caption_features(*arguments):
        real(*arguments)
        raise RuntimeError("after all was said")

    monkeypatch.setattr(captioner, "caption_features", caption_features)
    stream = Asked({"image": SMALL[0], "stream": b"true"})
    [(code, last)] = ask(Endpoint(captioner, MODEL), stream)
    assert code == 200  # it was sent with the first word
    assert stream.parts
    name, _, content = last.removesuffix("\n\n").partition("\ndata: ")
    assert (name, json.loads(content)["type"]) == ("event: error", "InternalError")


def test_a_picture_that_gets_no_caption_and_a_request_that_cant_be_read(captioner, monkeypatch, caplog):
    monkeypatch.setattr(captioner, "caption_features", lambda grid, *rest: [[] for _ in grid])
    [(code, body)] = ask(Endpoint(captioner, MODEL), Asked({"body": SMALL[0]}))
    assert (code, body["type"]) == (500, "InternalError")
    monkeypatch.undo()

    def broken(fields, *rest, **options):
        if fields["body"] == b"odd":
            raise ZeroDivisionError
        return parse_request(fields, *rest, **options)

    monkeypatch.setattr("handler.serving.endpoint.parse_request", broken)
    answers = ask(Endpoint(captioner, MODEL), Asked({"body": b"odd"}), Asked({"body": SMALL[0]}))
    assert [code for code, _ in answers] == [500, 200]


def test_the_pixels_of_a_request_together(captioner):
    sizes = [Image.open(BytesIO(picture)).size for picture in SMALL]
    pixels = [width * height for width, height in sizes]
    endpoint = Endpoint(captioner, MODEL, Settings(max_pixels=pixels[0] + pixels[1]))
    [(code, body)] = ask(endpoint, Asked({"body": {"images": [ENCODED[0], ENCODED[1], ENCODED[2]]}}, JSON_BODY))
    assert code == 200
    assert ["caption" in one for one in body["predictions"]] == [True, True, False]
    assert body["predictions"][2]["type"] == "TooManyPixels"
    answers = ask(endpoint, *(Asked({"body": picture}) for picture in SMALL))  # each request has its own
    assert [code for code, _ in answers] == [200] * 3


@pytest.mark.parametrize("name", ["max_pixels", "max_bytes", "max_images", "max_explanations", "max_batch_size"])
def test_settings_that_cant_be(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        Settings(**{name: 0})


def test_a_fault_in_preparing_one_picture_harms_no_neighbour(endpoint, monkeypatch, caplog):
    def upright(image, min_side):
        if image.size == Image.open(BytesIO(SMALL[1])).size:
            raise ZeroDivisionError
        return to_upright_rgb(image, min_side)

    monkeypatch.setattr("handler.serving.preparation.to_upright_rgb", upright)
    answers = ask(endpoint, Asked({"body": SMALL[0]}), Asked({"body": SMALL[1]}))
    assert [code for code, _ in answers] == [200, 500]
    assert "ZeroDivisionError" in caplog.text
    assert "ZeroDivisionError" not in json.dumps(answers[1][1])


@pytest.mark.parametrize(
    ("row", "headers", "http", "found"),
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
def test_calls_without_a_body(endpoint, row, headers, http, found):
    [(_, body)] = ask(endpoint, Asked(row, headers, http))
    assert found in body
    assert body.get("type", "EmptyBody") == "EmptyBody"


@pytest.mark.parametrize(
    "accept", ["text/html", "text/html,application/xhtml+xml,*/*;q=0.8", "text/HTML, application/json"]
)
def test_a_browser_gets_the_page(endpoint, accept):
    [answer], stats = endpoint.handle_batch([Asked({"body": b""}, {"accept": accept}).call])
    assert (answer.status, answer.content_type, stats.requests) == (200, "text/html; charset=utf-8", [])
    assert answer.body == endpoint.page.html
    assert "Content-Security-Policy" in answer.headers

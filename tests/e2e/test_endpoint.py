"""The running endpoint: captions, errors, batches, and the code that the worker runs."""

import base64
import gzip
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from PIL import Image

from handler import GenerationConfig
from tests.helpers.paths import PHOTOS

IMAGE = PHOTOS[0].read_bytes()


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def ask(endpoint, **arguments):
    return requests.post(endpoint, timeout=60, **arguments)


def test_raw_body_gives_the_caption_of_the_model(endpoint, served):
    response = ask(endpoint, data=IMAGE)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"caption", "captions", "model", "request_id"}
    [[expected]] = served.caption([IMAGE])
    assert body["caption"] == expected.text
    [found] = body["captions"]
    assert found["tokens"] == expected.tokens
    assert found["score"] == pytest.approx(expected.score, abs=1e-4)
    assert found["token_logprobs"] == pytest.approx(expected.token_logprobs, abs=1e-3)
    assert body["model"] == {"name": "captioner", "version": "1.0", "digest": served.config.digest}
    assert body["request_id"] == response.headers["x-request-id"]


def test_put_and_typed_body_give_the_same_caption(endpoint):
    expected = ask(endpoint, data=IMAGE).json()["caption"]
    assert requests.put(endpoint, data=IMAGE, timeout=60).json()["caption"] == expected
    typed = ask(endpoint, data=IMAGE, headers={"Content-Type": "image/jpeg"})
    assert typed.json()["caption"] == expected


def test_form_with_options_gives_captions_and_attention(endpoint, served):
    fields = {"beam_size": "4", "num_captions": "3", "max_length": "8", "attention": "true"}
    body = ask(endpoint, files={"image": ("x.jpg", IMAGE)}, data=fields).json()
    options = GenerationConfig(beam_size=4, num_captions=3, max_length=8)
    [expected] = served.caption([IMAGE], options)
    assert [found["caption"] for found in body["captions"]] == [caption.text for caption in expected]
    for found in body["captions"]:
        assert len(found["attention"]) == len(found["tokens"])
        assert [len(grid) for grid in found["attention"]] == [10] * len(found["tokens"])
        assert sum(map(sum, found["attention"][0])) == pytest.approx(1, abs=1e-3)


def test_json_with_base64_gives_captions(endpoint):
    body = {"image": base64.b64encode(IMAGE).decode(), "beam_size": 2, "num_captions": 2}
    response = ask(endpoint, json=body)
    assert response.status_code == 200
    assert len(response.json()["captions"]) == 2


FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ERRORS = {
    "no image": ({"data": b"hello, no image"}, 422, "InvalidImage"),
    "a truncated image": ({"data": IMAGE[:2000]}, 422, "InvalidImage"),
    "nothing": ({"data": b"", "headers": {"Content-Type": "image/jpeg"}}, 400, "EmptyBody"),
    "text": ({"data": "hello", "headers": {"Content-Type": "text/plain"}}, 415, "UnsupportedMedia"),
    "JSON declared to be a form": ({"data": '{"image": "aGk="}', "headers": FORM}, 415, "UnsupportedMedia"),
    "a body in gzip": (
        {"data": gzip.compress(IMAGE), "headers": {"Content-Encoding": "gzip"}},
        415,
        "UnsupportedMedia",
    ),
    "a URL": ({"json": {"url": "https://host/photo.jpg"}}, 400, "MalformedJSON"),
    "malformed JSON": ({"data": "{", "headers": {"Content-Type": "application/json"}}, 400, "MalformedJSON"),
    "a form without an image": ({"data": {"beam_size": "3"}}, 400, "EmptyBody"),
    "an unknown option": ({"files": {"image": IMAGE}, "data": {"beams": "3"}}, 400, "UnknownOption"),
    "an option out of range": ({"files": {"image": IMAGE}, "data": {"beam_size": "0"}}, 400, "OptionOutOfRange"),
    # CR and LF in a text of the client must not reach a header or a reason phrase: they would end the worker.
    "line breaks in an option": ({"files": {"image": IMAGE}, "data": {"a\r\nb": "1\r\n2"}}, 400, "UnknownOption"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_request_gives_its_error(endpoint, name):
    request, code, kind = ERRORS[name]
    response = ask(endpoint, **request)
    assert response.status_code == code
    body = response.json()
    assert body.keys() == {"code", "type", "message", "request_id"}
    assert (body["code"], body["type"]) == (code, kind)
    assert body["message"].endswith(".")
    assert "Traceback" not in response.text
    assert ask(endpoint, data=IMAGE).status_code == 200


def test_image_over_the_pixel_limit_is_refused(endpoint):
    response = ask(endpoint, data=encoded(Image.new("1", (10_000, 6_000)), "PNG"))
    assert response.status_code == 413
    assert response.json()["type"] == "TooManyPixels"
    assert "10000 × 6000" in response.json()["message"]


def test_image_that_is_expensive_to_decode_is_refused_quickly(endpoint):
    """Files that are small, below the pixel limit, and take a minute or gigabytes to decode or resize."""
    wide = encoded(Image.new("1", (49_000_000, 1)), "PNG")
    jpeg = encoded(Image.new("RGB", (7000, 7000)), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    scans = jpeg[:last] + jpeg[last:-2] * 200 + jpeg[-2:]
    for data, code, kind in ((wide, 413, "TooManyPixels"), (scans, 422, "InvalidImage")):
        response = ask(endpoint, data=data)
        assert (response.status_code, response.json()["type"]) == (code, kind)
        assert response.elapsed.total_seconds() < 10


def test_corrupted_image_leaves_its_batch_unchanged(endpoint, served):
    """Images sent at the same time, which TorchServe batches, get the responses that they get alone."""
    bodies = [photo.read_bytes() for photo in PHOTOS]
    expected = [captions[0].text for captions in served.caption(bodies)]
    requests_at_once = []
    for body, caption in zip(bodies, expected, strict=True):
        requests_at_once += [(body, 200, caption), (body[:500], 422, None), (b"x", 422, None)]
    with ThreadPoolExecutor(len(requests_at_once)) as pool:
        for _ in range(3):
            responses = list(pool.map(lambda item: ask(endpoint, data=item[0]), requests_at_once))
            for response, (_, code, caption) in zip(responses, requests_at_once, strict=True):
                assert response.status_code == code
                assert response.json().get("caption") == caption


def test_concurrent_requests_kill_no_worker(server, endpoint):
    with ThreadPoolExecutor(24) as pool:
        assert all(response.ok for response in pool.map(lambda _: ask(endpoint, data=IMAGE), range(48)))
    log = (server.logs / "ts_log.log").read_text()
    assert "worker process died" not in log
    [model] = requests.get(f"{server.management}/models/captioner", timeout=60).json()
    assert model["batchSize"] == 8
    assert [worker["status"] for worker in model["workers"]] == ["READY"]


def test_worker_runs_the_code_of_the_archive(server):
    """The worker logs the path of its package: in the unpacked archive, below the private directory of the server."""
    lines = (server.logs / "model_log.log").read_text().splitlines()
    [line] = [line for line in lines if "code from" in line]
    assert f"code from {server.temp_dir}/models/" in line
    assert line.rstrip().endswith("/handler")


def test_grpc_gives_the_captions_of_rest(grpc_client, endpoint):
    body = json.loads(grpc_client("Predictions", image=IMAGE, num_captions=b"2").prediction)
    expected = ask(endpoint, files={"image": IMAGE}, data={"num_captions": "2"}).json()
    assert [c["tokens"] for c in body["captions"]] == [c["tokens"] for c in expected["captions"]]
    assert body["model"] == expected["model"]


def test_grpc_error_is_in_the_body(grpc_client):
    body = json.loads(grpc_client("Predictions", image=b"no image").prediction)
    assert (body["code"], body["type"]) == (422, "InvalidImage")


def test_management_describes_the_model_card(server, served):
    url = f"{server.management}/models/captioner?customized=true"
    [described] = requests.get(url, timeout=30).json()
    card = described["customizedMetadata"]
    card = json.loads(card) if isinstance(card, str) else card
    assert card["model"]["digest"] == served.config.digest
    assert {"data", "terms", "limits", "scores", "training"} <= card["card"].keys()

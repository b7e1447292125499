"""`/explanations` without TorchServe: what it responds, in the coordinates of the image, beside caption requests."""

import base64
import json
from io import BytesIO

import pytest
import torch
from PIL import Image

from handler.captioner import Captioner
from handler.generation import GenerationConfig
from handler.serving.endpoint import Endpoint
from handler.serving.settings import Settings
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS
from tests.helpers.raw_requests import JSON_HEADERS, MODEL, raw_request, respond

PHOTO = PHOTOS[0].read_bytes()
ENCODED = base64.b64encode(PHOTO).decode()


@pytest.fixture(scope="module", params=["soft_attention", "nic"])
def endpoint(tmp_path_factory, request):
    captioner = Captioner.load(write_tiny_bundle(tmp_path_factory.mktemp("model"), request.param))
    return Endpoint(captioner, MODEL, Settings(max_pixels=1_000_000, cache_entries=4, max_explanations=8))


def explain_request(fields, headers=None):
    return raw_request(fields, {"explain": "True"} | (headers or {}))


def flatten(grid: list[list[float]]) -> list[float]:
    return [weight for row in grid for weight in row]


def test_explanation_has_the_caption_and_the_weights_of_a_caption_request(endpoint):
    fields = {"image": PHOTO, "beam_size": b"4", "num_captions": b"2"}
    plain = raw_request(fields | {"attention": b"true"})
    (status, body), (_, other) = respond(endpoint, explain_request(fields), plain)
    assert status == 200
    assert [c["tokens"] for c in body["captions"]] == [c["tokens"] for c in other["captions"]]
    assert [c["score"] for c in body["captions"]] == pytest.approx([c["score"] for c in other["captions"]], abs=1e-4)
    method = endpoint.captioner.explanation_methods[0]
    with Image.open(BytesIO(PHOTO)) as image:
        size = {"width": image.width, "height": image.height}
    assert body["explanation"] == {"method": method, "rows": 2, "columns": 2, "picture": size}
    assert "overlay" not in body
    for caption, expected in zip(body["captions"], other["captions"], strict=True):
        assert "attention" not in caption
        assert [word["token"] for word in caption["words"]] == caption["tokens"]
        for word, grid in zip(caption["words"], expected.get("attention", caption["tokens"]), strict=True):
            weights = flatten(word["weights"])
            assert sum(weights) == pytest.approx(1, abs=1e-3)
            assert 0 <= word["entropy"] <= 2.001
            if method == "attention":
                assert weights == pytest.approx(flatten(grid), abs=1e-4)


def test_explanation_by_gradient_equals_that_of_the_captioner(endpoint):
    [(status, body)] = respond(endpoint, explain_request({"image": PHOTO, "method": b"gradient"}))
    assert (status, body["explanation"]["method"]) == (200, "gradient")
    [best] = endpoint.captioner.explain(PHOTO, method="gradient")
    weights = [word["weights"] for word in body["captions"][0]["words"]]
    assert torch.tensor(weights).numpy() == pytest.approx(best.attributions.numpy(), abs=1e-4)


def test_overlay_is_a_figure_in_json_or_the_whole_response(endpoint):
    [(status, body)] = respond(endpoint, explain_request({"image": PHOTO, "overlay": b"true"}))
    assert status == 200
    with Image.open(BytesIO(base64.b64decode(body["overlay"]))) as figure:
        assert figure.format == "PNG"
    [response], _ = endpoint.handle_batch([explain_request({"body": PHOTO}, {"accept": "image/png"})])
    assert (response.status, response.content_type) == (200, "image/png")
    assert response.body == base64.b64decode(body["overlay"])
    [error], _ = endpoint.handle_batch([explain_request({"body": b"no image"}, {"accept": "image/png"})])
    assert (error.status, error.content_type) == (422, "application/json")
    assert json.loads(error.body)["type"] == "InvalidImage"


def test_explanations_of_several_images_have_their_own_methods(endpoint):
    images = [{"image": ENCODED, "method": "gradient"}, "AAAA", {"image": ENCODED, "max_length": 3}]
    [(status, body)] = respond(endpoint, explain_request({"body": {"images": images}}, JSON_HEADERS))
    assert status == 200
    first, second, third = body["predictions"]
    assert first["explanation"]["method"] == "gradient"
    assert second["type"] == "InvalidImage"
    assert third["explanation"]["method"] == endpoint.captioner.explanation_methods[0]
    assert len(third["captions"][0]["words"]) <= 3


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"image": PHOTO, "method": b"magic"}, "OptionOutOfRange", "for this model, not magic."),
        ({"image": PHOTO, "overlay": b"yes"}, "OptionOutOfRange", "overlay must be true or false, not yes."),
        ({"image": PHOTO, "stream": b"true"}, "OptionOutOfRange", "stream needs a caption request"),
        ({"image": PHOTO, "beams": b"1"}, "UnknownOption", "Unknown option 'beams'"),
        ({"inputs": b"[]"}, "MalformedJSON", "do not accept 'inputs'"),
        (
            {"images": json.dumps([{"image": ENCODED, "overlay": True}]).encode()},
            "OptionOutOfRange",
            "overlay is available for a single image only",
        ),
        (
            {"images": json.dumps([ENCODED] * 3).encode(), "num_captions": b"3", "beam_size": b"4"},
            "OptionOutOfRange",
            "The request asks to explain 9 captions; the limit is 8.",
        ),
        ({}, "EmptyBody", "No image in the request"),
    ],
)
def test_explanation_request_that_is_not_valid_says_why(endpoint, fields, error, message):
    [(status, body)] = respond(endpoint, explain_request(fields))
    assert (status, body["type"]) == (400, error)
    assert message in body["message"]


def test_caption_request_with_a_method_is_refused(endpoint):
    [(status, body)] = respond(endpoint, raw_request({"image": PHOTO, "method": b"gradient"}))
    assert (status, body["type"]) == (400, "UnknownOption")


def test_explanations_are_not_cached(endpoint):
    for _ in range(2):
        _, stats = endpoint.handle_batch([explain_request({"image": PHOTO})])
        assert (stats.cache_hits, stats.cache_misses) == (0, 0)
        assert stats.requests[0].outcomes == ["ok"]


def test_figure_that_fails_harms_no_other_request(endpoint, monkeypatch):
    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr("handler.serving.responses.draw_figure", fail)
    fields = {"image": PHOTO, "overlay": b"true"}
    (status, body), (other, _) = respond(endpoint, explain_request(fields), explain_request({"image": PHOTO}))
    assert (status, body["type"], other) == (500, "InternalError", 200)


def test_explanation_of_a_rotated_image_has_its_upright_size(endpoint):
    buffer, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 30), "red").save(buffer, "JPEG", exif=exif)
    [(_, body)] = respond(endpoint, explain_request({"image": buffer.getvalue(), "overlay": b"true"}))
    assert body["explanation"]["picture"] == {"width": 30, "height": 60}


def test_explanation_of_sampled_captions_has_their_seed(endpoint):
    fields = {"image": PHOTO, "temperature": b"1", "seed": b"7"}
    [(_, body)] = respond(endpoint, explain_request(fields))
    assert body["seed"] == 7
    options = GenerationConfig(temperature=1, seed=7, max_length=8)
    assert body["captions"][0]["tokens"] == endpoint.captioner.caption([PHOTO], options)[0][0].tokens

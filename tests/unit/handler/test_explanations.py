"""`/explanations` without TorchServe: what it answers, in the picture's own coordinates, beside plain calls."""

import base64
import json
from io import BytesIO

import pytest
import torch
from PIL import Image

from handler.captioner import Caption, Captioner
from handler.generation import GenerationConfig
from handler.serving.endpoint import Endpoint
from handler.serving.messages import RawRequest
from handler.serving.responses import explanations_to_json
from handler.serving.settings import Settings
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS

PHOTO = PHOTOS[0].read_bytes()
ENCODED = base64.b64encode(PHOTO).decode()
MODEL = {"name": "captioner", "version": "1.0", "digest": "sha256:0"}


@pytest.fixture(scope="module", params=["soft_attention", "nic"])
def endpoint(tmp_path_factory, request):
    captioner = Captioner.load(write_tiny_bundle(tmp_path_factory.mktemp("model"), request.param))
    return Endpoint(captioner, MODEL, Settings(max_pixels=1_000_000, cache_entries=4, max_explanations=8))


def explained(row, **headers) -> RawRequest:
    return RawRequest(row, {"host": "x", "explain": "True"} | headers, "id", print)


def flat(grid: list[list[float]]) -> list[float]:
    return [cell for row in grid for cell in row]


def ask(endpoint, *calls):
    answers, _ = endpoint.handle_batch(calls)
    return [(answer.status, json.loads(answer.body)) for answer in answers]


def test_explanations_beside_plain_calls(endpoint):
    """The caption is that of a plain call; with attention, so are the weights."""
    fields = {"image": PHOTO, "beam_size": b"4", "num_captions": b"2"}
    plain = RawRequest(fields | {"attention": b"true"}, {"host": "x"}, "id", print)
    (code, body), (_, other) = ask(endpoint, explained(fields), plain)
    assert code == 200
    assert [c["tokens"] for c in body["captions"]] == [c["tokens"] for c in other["captions"]]
    assert [c["score"] for c in body["captions"]] == pytest.approx([c["score"] for c in other["captions"]], abs=1e-4)
    method = endpoint.captioner.explanation_methods[0]
    with Image.open(BytesIO(PHOTO)) as image:
        size = {"width": image.width, "height": image.height}
    assert body["explanation"] == {"method": method, "rows": 2, "columns": 2, "picture": size}
    assert "overlay" not in body
    for caption, its in zip(body["captions"], other["captions"], strict=True):
        assert "attention" not in caption
        assert [word["token"] for word in caption["words"]] == caption["tokens"]
        for word, grid in zip(caption["words"], its.get("attention", caption["tokens"]), strict=True):
            cells = flat(word["weights"])
            assert sum(cells) == pytest.approx(1, abs=1e-3)
            assert 0 <= word["entropy"] <= 2.001
            if method == "attention":
                assert cells == pytest.approx(flat(grid), abs=1e-4)


def test_gradients_on_request(endpoint):
    [(code, body)] = ask(endpoint, explained({"image": PHOTO, "method": b"gradient"}))
    assert (code, body["explanation"]["method"]) == (200, "gradient")
    [best] = endpoint.captioner.explain(PHOTO, method="gradient")
    weights = [flat(word["weights"]) for word in body["captions"][0]["words"]]
    assert torch.tensor(weights).numpy() == pytest.approx(best.attributions.flatten(1).numpy(), abs=1e-4)


def test_the_overlay_in_json_and_alone(endpoint):
    ((code, body),) = ask(endpoint, explained({"image": PHOTO, "overlay": b"true"}))
    assert code == 200
    with Image.open(BytesIO(base64.b64decode(body["overlay"]))) as figure:
        assert figure.format == "PNG"
    [answer], _ = endpoint.handle_batch([explained({"body": PHOTO}, accept="image/png")])
    assert (answer.status, answer.content_type) == (200, "image/png")
    assert answer.body == base64.b64decode(body["overlay"])
    [bad], _ = endpoint.handle_batch([explained({"body": b"no picture"}, accept="image/png")])
    assert (bad.status, bad.content_type, json.loads(bad.body)["type"]) == (422, "application/json", "InvalidImage")


def test_several_pictures_with_methods_of_their_own(endpoint):
    pictures = [{"image": ENCODED, "method": "gradient"}, "AAAA", {"image": ENCODED, "max_length": 3}]
    [(code, body)] = ask(endpoint, explained({"body": {"images": pictures}}, **{"content-type": "application/json"}))
    assert code == 200
    first, second, third = body["predictions"]
    assert first["explanation"]["method"] == "gradient"
    assert second["type"] == "InvalidImage"
    assert third["explanation"]["method"] == endpoint.captioner.explanation_methods[0]
    assert len(third["captions"][0]["words"]) <= 3


@pytest.mark.parametrize(
    ("fields", "type", "message"),
    [
        ({"image": PHOTO, "method": b"magic"}, "OptionOutOfRange", "for this model, not magic."),
        ({"image": PHOTO, "overlay": b"yes"}, "OptionOutOfRange", "overlay must be true or false, not yes."),
        ({"image": PHOTO, "stream": b"true"}, "OptionOutOfRange", "stream needs a caption request with a single image"),
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
def test_what_cannot_be_explained(endpoint, fields, type, message):
    [(code, body)] = ask(endpoint, explained(fields))
    assert (code, body["type"]) == (400, type)
    assert message in body["message"]


def test_plain_calls_know_no_method(endpoint):
    [(code, body)] = ask(endpoint, RawRequest({"image": PHOTO, "method": b"gradient"}, {"host": "x"}, "id", print))
    assert (code, body["type"]) == (400, "UnknownOption")


def test_explanations_are_not_kept(endpoint):
    _, batch = endpoint.handle_batch([explained({"image": PHOTO})])
    assert (batch.cache_hits, batch.cache_misses) == (0, 0)
    assert batch.requests[0].outcomes == ["ok"]


def test_a_figure_that_fails_harms_no_neighbour(endpoint, monkeypatch):
    def broken(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr("handler.serving.responses.draw_figure", broken)
    row = {"image": PHOTO, "overlay": b"true"}
    (code, body), (other, _) = ask(endpoint, explained(row), explained({"image": PHOTO}))
    assert (code, body["type"], other) == (500, "InternalError", 200)


def test_the_picture_is_the_upright_one(endpoint):
    """A photo that its EXIF turns: width and height are those one sees."""
    stream, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 30), "red").save(stream, "JPEG", exif=exif)
    [(_, body)] = ask(endpoint, explained({"image": stream.getvalue(), "overlay": b"true"}))
    assert body["explanation"]["picture"] == {"width": 30, "height": 60}


def test_peaks_lie_in_the_picture():
    """A grid of 3 × 3 over 100 × 50 pixels: columns end at 33, 67, 100, rows at 17, 33, 50."""
    attributions = torch.zeros(3, 3, 3)
    attributions[0, 0, 0] = attributions[1, 1, 2] = attributions[2, 2, 1] = 1
    caption = Caption("a b c", -1.0, ["a", "b", "c"], [-1.0] * 4, attributions)
    words = explanations_to_json([caption], None, "attention", (100, 50))["captions"][0]["words"]
    assert [tuple(word["peak"].values()) for word in words] == [(0, 0, 33, 17), (67, 17, 33, 16), (33, 33, 34, 17)]
    assert [word["entropy"] for word in words] == [0, 0, 0]


def test_sampled_captions_are_explained_with_their_seed(endpoint):
    row = {"image": PHOTO, "temperature": b"1", "seed": b"7"}
    [(_, body)] = ask(endpoint, explained(row))
    assert body["seed"] == 7
    options = GenerationConfig(temperature=1, seed=7, max_length=8)
    assert body["captions"][0]["tokens"] == endpoint.captioner.caption([PHOTO], options)[0][0].tokens

"""The TorchServe entry on one batch, with TorchServe's own context."""

import base64
import json

import pytest
from ts.context import Context, RequestProcessor

from handler.captioner_service import CaptionerService
from support import PHOTOS, ROOT, write_tiny_bundle


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tiny_bundle(folder / "model")
    manifest = {"model": {"modelName": "captioner", "modelVersion": "1.0"}}
    settings = {"handler": {"max_pixels": 300_000}}
    return Context("captioner", str(folder), manifest, 8, None, "0.12.0", model_yaml_config=settings)


@pytest.fixture(scope="module")
def service(context):
    service = CaptionerService()
    service.initialize(context)
    return service


def handle(service, context, items):
    """Rows with their headers → each row's status and answer."""
    context.request_ids = {place: f"id-{place}" for place in range(len(items))}
    context.request_processor = [RequestProcessor({"Host": "x"} | headers) for _, headers in items]
    answers = service.handle([row for row, _ in items], context)
    return [(context.get_response_status(place)[0] or 200, json.loads(answer)) for place, answer in enumerate(answers)]


def test_one_batch_with_all_kinds_of_rows(service, context):
    small = [photo for photo in PHOTOS if photo.stem in ("astronaut", "cat", "coffee")]
    pictures = [photo.read_bytes() for photo in small]
    palace = (ROOT / "samples" / "photos" / "palace.jpg").read_bytes()
    settings = dict.fromkeys(("num_captions", "beam_size"), bytearray(b"4"))
    expected = service.captioner.caption(pictures)
    items = [
        ({"body": bytearray(pictures[0])}, {"Content-Type": "image/jpeg"}),
        ({"body": bytearray(b"broken")}, {}),
        ({"image": bytearray(pictures[1]), **settings}, {"image": {"content-type": "image/jpeg"}}),
        ({}, {"describe": "True"}),
        ({"body": {"image": base64.b64encode(pictures[2]).decode()}}, {"content-type": "application/json"}),
        ({"image": bytearray(pictures[2]), "beam": bytearray(b"4")}, {}),
        ({"body": bytearray(palace)}, {}),
        ({}, {}),
    ]
    answers = handle(service, context, items)
    assert [code for code, _ in answers] == [200, 422, 200, 200, 200, 400, 200, 400]
    assert answers[0][1]["caption"] == expected[0][0].caption
    assert answers[2][1]["captions"][0]["tokens"]
    assert len(answers[2][1]["captions"]) == 4
    assert answers[3][1]["model"]["digest"] == service.captioner.config.digest
    assert answers[4][1]["caption"] == expected[2][0].caption
    assert [body.get("type") for _, body in answers] == [
        None, "InvalidImage", None, None, None, "UnknownOption", None, "EmptyBody"
    ]  # fmt: skip
    assert [body.get("request_id") for _, body in answers] == [f"id-{i}" if i != 3 else None for i in range(8)]


def test_the_cap_on_pixels_comes_from_the_models_settings(service, context):
    assert service.max_pixels == 300_000
    assert handle(service, context, [({"body": bytearray(PHOTOS[0].read_bytes())}, {})])[0][0] == 200
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.new("L", (600, 501)).save(stream, "PNG")
    [(code, body)] = handle(service, context, [({"body": bytearray(stream.getvalue())}, {})])
    assert (code, body["type"]) == (413, "TooManyPixels")


def test_a_batch_of_broken_rows_alone(service, context):
    answers = handle(service, context, [({"body": bytearray(b"x")}, {})] * 3)
    assert [code for code, _ in answers] == [422] * 3

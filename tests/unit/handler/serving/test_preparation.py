"""Images are opened within the limits of their request, and decoded without harm to others."""

import json
from io import BytesIO

import pytest
from PIL import Image

from handler.errors import TooManyPixels
from handler.generation import GenerationConfig
from handler.image import to_upright_rgb
from handler.preprocessing import Preprocessing
from handler.serving.endpoint import Endpoint
from handler.serving.image_task import DecodedImage, ImageTask, OpenedImage
from handler.serving.messages import ExplainOptions, ImageRequest
from handler.serving.preparation import FIGURE_MAX_SIDE, ImagePreparer
from handler.serving.settings import Settings
from tests.helpers.raw_requests import ENCODED, IMAGES, MODEL, json_request, raw_request, respond

PREPROCESSING = Preprocessing(64, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


def jpeg(width: int, height: int, orientation: int = 1) -> bytes:
    buffer, exif = BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), "red").save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def prepare(*images: bytes, max_pixels: int = 1_000_000, explain: ExplainOptions | None = None) -> list[ImageTask]:
    tasks = [ImageTask(ImageRequest(image, GenerationConfig(), explain)) for image in images]
    preparer = ImagePreparer(PREPROCESSING, max_pixels)
    preparer.open_all(tasks)
    assert all(isinstance(task.step, OpenedImage | Exception) for task in tasks)
    preparer.decode_all(tasks)
    return tasks


@pytest.mark.parametrize(
    ("max_pixels", "too_many"),
    [(3000, [False, False, False]), (2999, [False, False, True]), (1999, [False, True, True]), (999, [True] * 3)],
)
def test_open_all_rejects_the_images_beyond_the_pixel_limit(max_pixels, too_many):
    tasks = prepare(*[jpeg(100, 10)] * 3, max_pixels=max_pixels)
    assert [isinstance(task.step, TooManyPixels) for task in tasks] == too_many


def test_endpoint_counts_the_pixels_of_each_request_alone(captioner):
    pixels = [width * height for width, height in (Image.open(BytesIO(image)).size for image in IMAGES)]
    endpoint = Endpoint(captioner, MODEL, Settings(max_pixels=pixels[0] + pixels[1]))
    [(status, body)] = respond(endpoint, json_request({"images": ENCODED}))
    assert status == 200
    assert ["caption" in prediction for prediction in body["predictions"]] == [True, True, False]
    assert body["predictions"][2]["type"] == "TooManyPixels"
    responses = respond(endpoint, *(raw_request({"body": image}) for image in IMAGES))
    assert [status for status, _ in responses] == [200] * 3


@pytest.mark.parametrize(("orientation", "size"), [(1, (60, 30)), (3, (60, 30)), (6, (30, 60)), (8, (30, 60))])
def test_decode_all_gives_the_size_of_the_upright_image(orientation, size):
    [task] = prepare(jpeg(60, 30, orientation))
    assert isinstance(task.step, DecodedImage)
    assert task.step.size == size
    assert task.step.pixels.shape == (3, 64, 64)
    assert task.step.thumbnail is None
    assert task.decode_seconds > 0


def test_decode_all_keeps_a_thumbnail_for_explanations():
    [task] = prepare(jpeg(1000, 500, 6), explain=ExplainOptions("gradient"))
    assert isinstance(task.step, DecodedImage)
    assert task.step.size == (500, 1000)
    assert task.step.thumbnail.size == (FIGURE_MAX_SIDE // 2, FIGURE_MAX_SIDE)


def test_sampled_image_without_seed_gets_one():
    task = ImageTask(ImageRequest(jpeg(60, 30), GenerationConfig(temperature=1.0)))
    ImagePreparer(PREPROCESSING, 10_000).open_all([task])
    assert isinstance(task.step, OpenedImage)
    assert task.step.request.seed is not None


def test_image_that_raises_while_it_is_prepared_fails_alone(endpoint, monkeypatch, caplog):
    def upright(image, min_side):
        if image.size == Image.open(BytesIO(IMAGES[1])).size:
            raise ZeroDivisionError
        return to_upright_rgb(image, min_side)

    monkeypatch.setattr("handler.serving.preparation.to_upright_rgb", upright)
    responses = respond(endpoint, raw_request({"body": IMAGES[0]}), raw_request({"body": IMAGES[1]}))
    assert [status for status, _ in responses] == [200, 500]
    assert "ZeroDivisionError" in caplog.text
    assert "ZeroDivisionError" not in json.dumps(responses[1][1])

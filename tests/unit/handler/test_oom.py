"""Recognizing OOM errors, retrying in halves, and an endpoint that really runs out of memory."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from handler.captioner import Captioner
from handler.errors import InvalidImage
from handler.image import open_image, to_upright_rgb
from handler.oom import is_out_of_memory, retry_in_halves, to_request_error
from handler.serving.endpoint import Endpoint
from handler.serving.messages import RawRequest
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS

MODEL = {"name": "captioner", "version": "1.0", "digest": "sha256:0"}
IMAGES = [photo.read_bytes() for photo in PHOTOS[:5]]
TOO_MANY_BYTES = 2**50  # bytes, more than any address space


def of_torch() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(TOO_MANY_BYTES, dtype=torch.uint8)
    return caught.value


def of_numpy() -> Exception:
    with pytest.raises(MemoryError) as caught:
        np.empty(TOO_MANY_BYTES, np.uint8)
    return caught.value


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (of_torch(), True),
        (of_numpy(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223: std::bad_alloc"), True),
        (OSError("out of memory error when reading image file"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_is_out_of_memory_recognizes_the_messages(error, expected):
    assert is_out_of_memory(error) is expected
    request_error = to_request_error(error, "It failed")
    assert (request_error.code, request_error.type) == ((507, "OutOfMemory") if expected else (500, "InternalError"))
    assert str(request_error).startswith("It failed: the ")


@pytest.mark.parametrize(
    ("items", "max_items", "failing", "tries", "failed"),
    [
        ("abcd", 4, "", ["abcd"], ""),
        ("abcd", 2, "", ["abcd", "ab", "cd"], ""),
        ("abcde", 2, "d", ["abcde", "ab", "cde", "c", "de", "d", "e"], "d"),
        ("abc", 0, "", ["abc", "a", "bc", "b", "c"], "abc"),
        ("a", 1, "a", ["a"], "a"),
    ],
)
def test_retry_in_halves_isolates_failing_items(items, max_items, failing, tries, failed):
    seen = []

    def attempt(items: str) -> str | None:
        seen.append(items)
        return f"not {items}" if len(items) > max_items or set(items) & set(failing) else None

    assert list(retry_in_halves(items, attempt)) == [(item, f"not {item}") for item in failed]
    assert seen == tries


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return Captioner.load(write_tiny_bundle(tmp_path_factory.mktemp("model")))


def handle(captioner, images):
    requests = [RawRequest({"body": image}, {"host": "x"}, "id", None) for image in images]
    responses, batch = Endpoint(captioner, MODEL).handle_batch(requests)
    return [(response.status, json.loads(response.body)) for response in responses], batch


def test_batch_too_large_for_memory_is_halved_until_it_fits(captioner, monkeypatch):
    expected = [captions[0].text for captions in captioner.caption(IMAGES)]
    real = captioner.encode

    def encode(pixels):
        torch.empty(TOO_MANY_BYTES if len(pixels) > 2 else 1, dtype=torch.uint8)
        return real(pixels)

    monkeypatch.setattr(captioner, "encode", encode)
    responses, batch = handle(captioner, IMAGES)
    assert [(code, body["caption"]) for code, body in responses] == [(200, caption) for caption in expected]
    assert batch.batch_sizes == [2, 1, 2]


@pytest.mark.parametrize("recovers", [True, False], ids=["recovers", "out of memory alone too"])
def test_image_out_of_memory_is_decoded_again_alone(captioner, monkeypatch, recovers):
    """It is never called damaged: clients would not retry it."""
    size, tries = Image.open(PHOTOS[2]).size, []

    def upright(image, min_side):
        tries.append(image.size)
        if image.size == size and not (recovers and len(tries) > len(IMAGES)):
            np.empty(TOO_MANY_BYTES, np.uint8)
        return to_upright_rgb(image, min_side)

    monkeypatch.setattr("handler.serving.preparation.to_upright_rgb", upright)
    responses, _ = handle(captioner, IMAGES)
    assert [code for code, _ in responses] == [200, 200, 200 if recovers else 507, 200, 200]
    assert tries.count(size) == 2
    if not recovers:
        assert responses[2][1]["type"] == "OutOfMemory"
        assert responses[2][1]["message"] == "The image could not be prepared: the server has too little memory for it."


def test_decoding_without_memory_is_not_called_damaged(monkeypatch):
    for error, raised in ((MemoryError(), MemoryError), (ValueError(), InvalidImage)):

        def load(_, error=error):
            raise error

        image = open_image(IMAGES[0])
        with monkeypatch.context() as patched:
            patched.setattr(type(image), "load", load)
            with pytest.raises(raised):
                to_upright_rgb(image)

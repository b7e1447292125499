"""What counts as out of memory, work by halves, and an endpoint that runs out of it for real."""

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
PICTURES = [photo.read_bytes() for photo in PHOTOS[:5]]
TOO_MUCH = 2**50  # bytes, more than any machine's addresses


def of_torch() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(TOO_MUCH, dtype=torch.uint8)
    return caught.value


def of_numpy() -> Exception:
    with pytest.raises(MemoryError) as caught:
        np.empty(TOO_MUCH, np.uint8)
    return caught.value


@pytest.mark.parametrize(
    ("error", "ran"),
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
def test_what_counts_as_out_of_memory(error, ran):
    assert is_out_of_memory(error) is ran
    answered = to_request_error(error, "It failed")
    assert (answered.code, answered.type) == ((507, "OutOfMemory") if ran else (500, "InternalError"))
    assert str(answered).startswith("It failed: the ")


@pytest.mark.parametrize(
    ("items", "most", "never", "tries", "failed"),
    [
        ("abcd", 4, "", ["abcd"], ""),
        ("abcd", 2, "", ["abcd", "ab", "cd"], ""),
        ("abcde", 2, "d", ["abcde", "ab", "cde", "c", "de", "d", "e"], "d"),
        ("abc", 0, "", ["abc", "a", "bc", "b", "c"], "abc"),
        ("a", 1, "a", ["a"], "a"),
    ],
)
def test_by_halves(items, most, never, tries, failed):
    seen = []

    def attempt(some: str) -> str | None:
        seen.append(some)
        return f"not {some}" if len(some) > most or set(some) & set(never) else None

    assert list(retry_in_halves(items, attempt)) == [(item, f"not {item}") for item in failed]
    assert seen == tries


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return Captioner.load(write_tiny_bundle(tmp_path_factory.mktemp("model")))


def answer(captioner, pictures):
    calls = [RawRequest({"body": picture}, {"host": "x"}, "id", None) for picture in pictures]
    answers, batch = Endpoint(captioner, MODEL).handle_batch(calls)
    return [(one.status, json.loads(one.body)) for one in answers], batch


def test_a_batch_that_torch_has_no_memory_for_is_cut_until_it_fits(captioner, monkeypatch):
    expected = [captions[0].text for captions in captioner.caption(PICTURES)]
    real = captioner.encode

    def encode(pixels):
        torch.empty(TOO_MUCH if len(pixels) > 2 else 1, dtype=torch.uint8)
        return real(pixels)

    monkeypatch.setattr(captioner, "encode", encode)
    answers, batch = answer(captioner, PICTURES)
    assert [(code, body["caption"]) for code, body in answers] == [(200, caption) for caption in expected]
    assert batch.batch_sizes == [2, 1, 2]


@pytest.mark.parametrize("beside", [True, False], ids=["beside others", "not even alone"])
def test_a_picture_that_cant_be_decoded_for_want_of_memory_is_tried_again_alone(captioner, monkeypatch, beside):
    """It is never called damaged: a harness would not ask for it again."""
    size, tries = Image.open(PHOTOS[2]).size, []

    def upright(image, min_side):
        tries.append(image.size)
        if image.size == size and not (beside and len(tries) > len(PICTURES)):
            np.empty(TOO_MUCH, np.uint8)
        return to_upright_rgb(image, min_side)

    monkeypatch.setattr("handler.serving.preparation.to_upright_rgb", upright)
    answers, _ = answer(captioner, PICTURES)
    assert [code for code, _ in answers] == [200, 200, 200 if beside else 507, 200, 200]
    assert tries.count(size) == 2
    if not beside:
        assert answers[2][1]["type"] == "OutOfMemory"
        assert answers[2][1]["message"] == "The image could not be prepared: the server has too little memory for it."


def test_a_decoder_without_memory_says_so_and_one_with_damaged_bytes_says_that(monkeypatch):
    for error, said in ((MemoryError(), MemoryError), (ValueError(), InvalidImage)):

        def load(_, error=error):
            raise error

        image = open_image(PICTURES[0])
        with monkeypatch.context() as patched:
            patched.setattr(type(image), "load", load)
            with pytest.raises(said):
                to_upright_rgb(image)

"""Images in batches, and batches that fail."""

import json
import weakref

import pytest
import torch

from handler.serving.endpoint import Endpoint
from handler.serving.settings import Settings
from tests.helpers.raw_requests import ENCODED, IMAGES, MODEL, json_request, raw_request, respond, stream_tokens


def test_more_images_than_the_batch_size_are_captioned_in_several_batches(captioner):
    endpoint = Endpoint(captioner, MODEL, Settings(max_batch_size=2))
    responses, stats = endpoint.handle_batch([json_request({"images": ENCODED}), raw_request({"body": IMAGES[0]})])
    assert stats.batch_sizes == [2, 2]
    predictions = json.loads(responses[0].body)["predictions"]
    assert json.loads(responses[1].body)["caption"] == predictions[0]["caption"]


def test_batch_without_memory_is_retried_in_halves_until_one_image_fails_alone(captioner, monkeypatch):
    """Out of memory for four at once, and never enough for one of them: three captions, one error."""
    real, batches, failed = captioner.caption_features, [], []
    poison = captioner.encode(captioner.preprocess(IMAGES[2]).unsqueeze(0))

    def caption_features(features, *rest):
        assert not any(reference() is not None for reference in failed)  # a failed try has released its memory
        batches.append(len(features))
        if len(features) > 2 or any(torch.allclose(one, poison[0], atol=1e-5) for one in features):
            failed.append(weakref.ref(features))
            raise MemoryError
        return real(features, *rest)

    monkeypatch.setattr(captioner, "caption_features", caption_features)
    monkeypatch.setattr("handler.serving.batching.logger.exception", lambda *_: None)  # pytest keeps its frames
    chunks = []
    stream = raw_request({"image": IMAGES[0], "stream": b"true"}, chunks=chunks)
    plain = [raw_request({"body": image}) for image in (IMAGES[1], IMAGES[2], IMAGES[0])]
    responses = respond(Endpoint(captioner, MODEL), *plain[:2], stream, plain[2])
    assert batches == [4, 2, 1, 1, 2]
    assert [status for status, _ in responses] == [200, 507, 200, 200]
    assert responses[1][1]["type"] == "OutOfMemory"
    assert stream_tokens(chunks) == responses[3][1]["captions"][0]["tokens"]


def test_image_that_gets_no_caption_is_an_internal_error(captioner, monkeypatch):
    monkeypatch.setattr(captioner, "caption_features", lambda features, *_: [[] for _ in features])
    [(status, body)] = respond(Endpoint(captioner, MODEL), raw_request({"body": IMAGES[0]}))
    assert (status, body["type"]) == (500, "InternalError")


@pytest.mark.parametrize("others", [[], [1], [1, 2, 1]])
def test_caption_of_an_image_is_the_same_in_any_batch(endpoint, captioner, others):
    [[expected]] = captioner.caption(IMAGES[:1])
    requests = [raw_request({"body": IMAGES[index]}) for index in [0, *others]]
    assert respond(endpoint, *requests)[0][1]["captions"][0]["tokens"] == expected.tokens

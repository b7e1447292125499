"""What is compared of a response in a soak test."""

import json

import pytest

from deploy.soak.load import OTHER_TOKENS, summarize_json, summarize_stream

CAPTIONED = {"caption": "a dog", "captions": [{"tokens": ["a", "dog"]}]}


@pytest.mark.parametrize(
    ("content", "summary"),
    [
        (CAPTIONED, "a dog"),
        ({"code": 422, "type": "InvalidImage", "message": "…"}, "InvalidImage"),
        ({"predictions": [CAPTIONED, {"code": 422, "type": "InvalidImage"}]}, "a dog | InvalidImage"),
        ({"outputs": [{"data": ["a dog", ""]}, {"data": ["{}", "{}"]}]}, "a dog | "),
    ],
)
def test_summarize_json_keeps_captions_and_error_types(content, summary):
    assert summarize_json(content) == summary


@pytest.mark.parametrize(("tokens", "summary"), [(["a", "dog"], "a dog"), (["a", "a", "dog"], OTHER_TOKENS)])
def test_summarize_stream_compares_its_tokens_with_the_caption(tokens, summary):
    parts = [*({"token": token} for token in tokens), CAPTIONED]
    text = "".join(f"event: x\ndata: {json.dumps(part)}\n\n" for part in parts)
    assert summarize_stream(text) == (200, summary)

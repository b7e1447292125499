"""Streams of tokens, without a search."""

import json

import pytest

from handler.serving.streaming import TokenStream, format_chunk


def test_token_stream_sends_each_token_once():
    sent = []
    stream = TokenStream(sent.append)
    for prefix in (["a"], ["a"], ["a", "dog"], ["a", "dog", "runs", "fast"]):
        stream.update(prefix)
        assert sent == prefix
    assert stream.num_sent == 4


def test_token_stream_that_starts_over_continues_after_the_last_token():
    sent = []
    stream = TokenStream(sent.append)
    for prefix in (["a", "dog"], [], ["a"], ["a", "dog"], ["a", "dog", "runs"]):
        stream.update(prefix)
    assert sent == ["a", "dog", "runs"]


def test_token_stream_that_fails_sends_the_failed_token_again():
    sent = []

    def send(token: str) -> None:
        sent.append(token)
        if len(sent) == 2:
            raise OSError

    stream = TokenStream(send)
    with pytest.raises(OSError):  # noqa: PT011
        stream.update(["a", "dog"])
    assert stream.num_sent == 1
    stream.update(["a", "dog", "runs"])
    assert sent == ["a", "dog", "dog", "runs"]


def test_format_chunk_is_an_event_over_http_and_json_over_grpc():
    content = {"token": "naïve\n"}
    event = format_chunk("token", content, is_http=True)
    assert event == f"event: token\ndata: {json.dumps(content)}\n\n"
    assert json.loads(format_chunk("token", content, is_http=False)) == content

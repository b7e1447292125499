"""Request log: odd responses, locking, resumed sessions."""

import time

import pytest

from eval.client import CaptionResult, Client
from eval.request_log import open_log
from eval.results import read_results, write_results
from eval.transports import EndpointError

ODD_RESPONSES = {
    "captions are a number": {"caption": "a dog", "captions": 7},
    "digest is a number": {"caption": "a dog", "model": {"digest": 7}},
    "lone surrogate": b'{"caption": "a \\ud800 dog"}',
    "line separators": {"caption": "a\u2028dog\u0085runs\nfast\r|||", "model": None},
    "nested": b"[" * 200_000,
    "token missing": (
        400,
        "application/json",
        {"code": 400, "type": "InvalidKeyException", "message": "Token is missing"},
    ),
}


@pytest.mark.parametrize("name", ODD_RESPONSES)
def test_request_log_odd_response_can_be_read_again(serve, tmp_path, name):
    """The log is read back, and errors that can be fixed are requested again."""
    path, run, response = tmp_path / "log.jsonl", {"split": "x"}, ODD_RESPONSES[name]
    response = response if isinstance(response, tuple) else (200, "application/json", response)
    with Client(serve(lambda number, body: response).url) as client:
        [result] = client.caption_all([(1, lambda: b"x")])
    with open_log(path, run) as log:
        log.add(result)
    with open_log(path, run) as log:
        assert log.answers.keys() == {1}
        assert log.is_done(1) == ("caption" in log.answers[1]) == (name not in ("nested", "token missing"))
        captions = {1: log.answers[1].get("caption", "")}
    write_results(tmp_path / "captions.json", captions)
    assert read_results(tmp_path / "captions.json") == captions


def test_request_log_keeps_all_captions_of_a_response(tmp_path):
    texts = [{"caption": "a dog"}, {"caption": "the dog"}]
    with open_log(tmp_path / "log.jsonl", {}) as log:
        log.add(CaptionResult(1, {"caption": "a dog", "captions": texts}, 0.1))
        log.add(CaptionResult(2, {"caption": "a cat", "captions": texts[:1]}, 0.1))
    with open_log(tmp_path / "log.jsonl", {}) as log:
        assert log.answers[1]["captions"] == ["a dog", "the dog"]
        assert "captions" not in log.answers[2]  # the one caption is stored already


def test_open_log_twice_is_refused(tmp_path):
    with open_log(tmp_path / "log.jsonl", {}), pytest.raises(ValueError, match="Another process uses"):
        open_log(tmp_path / "log.jsonl", {})
    open_log(tmp_path / "log.jsonl", {}).close()


def test_open_log_of_another_run_is_refused(tmp_path):
    open_log(tmp_path / "log.jsonl", {"split": "x", "options": {}}).close()
    with pytest.raises(ValueError, match="belongs to a run with other split: choose another RUN"):
        open_log(tmp_path / "log.jsonl", {"split": "y", "options": {}})


def test_open_log_removes_truncated_line_and_refuses_damaged_ones(tmp_path):
    path = tmp_path / "log.jsonl"
    with open_log(path, {}) as log:
        log.add(CaptionResult(1, {"caption": "a"}, 0.1))
    content = path.read_text()
    path.write_text(content + '{"image_id": 2, "capt')
    with open_log(path, {}) as log:
        assert log.answers.keys() == {1}
    assert path.read_text().startswith(content)
    path.write_text(content + "{\n")
    with pytest.raises(ValueError, match="is damaged"):
        open_log(path, {})


def test_request_log_counts_the_time_of_all_sessions(tmp_path):
    path, run = tmp_path / "log.jsonl", {"split": "x"}
    for image in (1, 2):
        with open_log(path, run) as log:
            time.sleep(0.05)
            log.add(CaptionResult(image, {"caption": "a", "model": None}, 0.1))
    with open_log(path, run) as log:
        assert 0.1 <= log.seconds < 10
        assert log.is_done(1)
        assert not log.is_done(3)
        log.add(CaptionResult(3, EndpointError(0, "Timeout", "late"), 1.0))
        assert not log.is_done(3)


def test_request_log_other_model_is_refused(tmp_path):
    with open_log(tmp_path / "log.jsonl", {}) as log:
        log.add(CaptionResult(1, {"caption": "a", "model": {"digest": "one"}}, 0.1))
        with pytest.raises(ValueError, match="has changed from one to two: choose another RUN"):
            log.add(CaptionResult(2, {"caption": "a", "model": {"digest": "two"}}, 0.1))
        assert log.answers.keys() == {1}

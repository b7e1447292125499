"""The log of a run: odd answers do not spoil it, one process holds it, and it counts the time of all sessions."""

import time

import pytest

from eval.client import CaptionResult, Client
from eval.request_log import RequestLog
from eval.summary import read_results, write_results
from eval.transports import EndpointError

ODD = {
    "captions that are none": {"caption": "a dog", "captions": 7},
    "no digest": {"caption": "a dog", "model": {"digest": 7}},
    "half a character": b'{"caption": "a \\ud800 dog"}',
    "ends of lines": {"caption": "a\u2028dog\u0085runs\nfast\r|||", "model": None},
    "nested": b"[" * 200_000,
    "a token": (400, "application/json", {"code": 400, "type": "InvalidKeyException", "message": "Token is missing"}),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_answers_neither_end_a_run_nor_spoil_its_log(serve, tmp_path, name):
    """The log is read again, and what may be mended is asked for again."""
    path, what = tmp_path / "log.jsonl", {"split": "x"}
    answer = ODD[name] if isinstance(ODD[name], tuple) else (200, "application/json", ODD[name])
    with Client(serve(lambda number, body: answer).url) as client:
        [outcome] = client.caption_all([(1, lambda: b"x")])
    log = RequestLog(path, what)
    log.add(outcome)
    log.close()
    again = RequestLog(path, what)
    assert again.answers.keys() == {1}
    assert again.settled(1) == ("caption" in again.answers[1]) == (name not in ("nested", "a token"))
    captions = {1: again.answers[1].get("caption", "")}
    write_results(tmp_path / "captions.json", captions)
    assert read_results(tmp_path / "captions.json") == captions
    again.close()


def test_one_process_at_a_time(tmp_path):
    log = RequestLog(tmp_path / "log.jsonl", {})
    with pytest.raises(ValueError, match="Another process works on"):
        RequestLog(tmp_path / "log.jsonl", {})
    log.close()
    RequestLog(tmp_path / "log.jsonl", {}).close()


def test_a_log_counts_the_time_of_all_sessions(tmp_path):
    path, what = tmp_path / "log.jsonl", {"split": "x"}
    for image in (1, 2):
        log = RequestLog(path, what)
        time.sleep(0.05)
        log.add(CaptionResult(image, {"caption": "a", "model": None}, 0.1))
        log.close()
    log = RequestLog(path, what)
    assert 0.1 <= log.seconds < 10
    assert log.settled(1)
    assert not log.settled(3)
    log.add(CaptionResult(3, EndpointError(0, "Timeout", "late"), 1.0))
    assert not log.settled(3)
    log.close()

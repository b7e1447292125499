"""What the demonstration's callers count, and that it fails where something is lost or wrong."""

import contextlib
import json
import sys

import pytest

from deploy.demo import __main__ as command
from deploy.demo.scenarios import Scene
from deploy.demo.traffic import Traffic

EXPECTED = {"1.0": {"a": "a dog", "b": "a cat"}}
PICTURES = {"a": b"a", "b": b"b"}
JSON = "application/json"


def captioned(caption: str, version: str = "1.0") -> tuple[int, str, dict]:
    return 200, JSON, {"caption": caption, "model": {"version": version}}


def traffic(endpoint, requests: int) -> Traffic:
    with Traffic(endpoint.url, PICTURES, EXPECTED, callers=1) as traffic:
        traffic.wait(requests=requests)
    return traffic


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        (lambda number, body: captioned("a dog" if body == b"a" else "a cat"), True, False),
        (lambda number, body: captioned("a dog"), False, True),
        (lambda number, body: captioned("a dog" if body == b"a" else "a cat", "2.0"), False, True),
    ],
    ids=["right", "another picture's caption", "a version that was never asked undisturbed"],
)
def test_captions_are_compared(serve, answer, right, wrong):
    seen = traffic(serve(answer), 4)
    assert (seen.lost, seen.wrong > 0, all(one.right for one in seen.answered)) == (0, wrong, right)


def test_a_try_that_failed_is_told_and_made_again(serve):
    def answer(number, body):
        return (503, "text/plain", b"") if number == 1 else captioned("a dog" if body == b"a" else "a cat")

    seen = traffic(serve(answer), 3)
    assert (seen.lost, seen.wrong, dict(seen.errors)) == (0, 0, {"Busy 503": 1})


def test_what_is_refused_again_is_lost(serve):
    refusal = {"code": 500, "type": "InternalServerException", "message": "Worker died."}
    seen = traffic(serve(lambda number, body: (500, JSON, refusal)), 2)
    assert seen.lost == len(seen.answered) >= 2
    assert set(seen.errors) == {"InternalServerException 500"}


@pytest.mark.parametrize("fault", ["", "1 lost, 0 wrong"])
def test_it_ends_with_an_error_where_a_scene_has_a_fault(monkeypatch, tmp_path, capsys, fault):
    scene = Scene("a kill", 2.0, 10, 0.5, fault=fault)
    scene.versions.update({"1.0": 9})
    scene.figures["whole again after s"] = 7.25

    class Scenes:
        def __init__(self, *_):
            pass

        def run(self):
            return [scene]

    monkeypatch.setattr(command, "Scenes", Scenes)
    monkeypatch.setattr(command, "Cluster", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(command, "build_archive", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["demo", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) if fault else contextlib.nullcontext() as ended:
        command.main()
    assert (ended.value.code if fault else "") == (f"a kill: {fault}" if fault else "")
    content = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert content["scenes"][0]["figures"] == {"whole again after s": 7.25}
    assert "| a kill | 10 | 4.5 | 0.5 | 1.0: 9 | 0 | 0 | 0 | 0 | whole again after s: 7.25" in capsys.readouterr().out

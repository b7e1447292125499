"""The command of the demonstration writes its results and exits with 1 on a failure."""

import contextlib
import json
import sys

import pytest

from deploy.demo import __main__ as command
from deploy.demo.scenarios import ScenarioResult


@pytest.mark.parametrize("failure", ["", "1 lost, 0 wrong"])
def test_demo_exits_with_an_error_if_a_scenario_failed(monkeypatch, tmp_path, capsys, failure):
    result = ScenarioResult("a kill", 2.0, 10, 0.5, failure=failure)
    result.versions.update({"1.0": 9})
    result.figures["recovered after s"] = 7.25

    class Scenarios:
        def __init__(self, *_):
            pass

        def run(self):
            return [result]

    monkeypatch.setattr(command, "Scenarios", Scenarios)
    monkeypatch.setattr(command, "Cluster", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(command, "build_archive", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["demo", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) if failure else contextlib.nullcontext() as ended:
        command.main()
    assert (ended.value.code if failure else "") == (f"a kill: {failure}" if failure else "")
    content = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert content["scenarios"][0]["figures"] == {"recovered after s": 7.25}
    assert "| a kill | 10 | 4.5 | 0.5 | 1.0: 9 | 0 | 0 | 0 | 0 | recovered after s: 7.25" in capsys.readouterr().out

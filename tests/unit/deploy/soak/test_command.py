"""The command of a soak test exits with 1 on a failure."""

import contextlib
import sys

import pytest

from deploy.soak import __main__ as command
from deploy.torchserve import ServerError
from tests.unit.deploy.soak.series import soak_report


@pytest.mark.parametrize("sentences", [[], ["1 responses were lost."]])
def test_soak_exits_with_an_error_if_there_is_a_failure(monkeypatch, tmp_path, capsys, sentences):
    monkeypatch.setattr(command, "soak", lambda *_: soak_report() | {"failures": sentences})
    monkeypatch.setattr(sys, "argv", ["soak", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) if sentences else contextlib.nullcontext() as ended:
        command.main()
    assert (ended.value.code if sentences else "") == "\n".join(sentences)
    assert "600 requests in 30.0 minutes: 600 caption." in capsys.readouterr().out


def test_soak_exits_with_the_error_of_a_server_that_does_not_start(monkeypatch):
    def fail(*_):
        raise ServerError("Port 1 is taken.")

    monkeypatch.setattr(command, "soak", fail)
    monkeypatch.setattr(sys, "argv", ["soak"])
    with pytest.raises(SystemExit, match="Port 1 is taken"):
        command.main()

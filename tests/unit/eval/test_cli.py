"""Arguments and errors that the commands share."""

import argparse

import pytest

from eval.cli import add_endpoint_arguments, cli_errors, client_from_args
from eval.transports import EndpointError


@pytest.mark.parametrize(
    "error", [OSError("gone"), ValueError("gone"), ModuleNotFoundError("gone"), EndpointError(0, "Broken", "gone")]
)
def test_cli_errors_expected_error_exits_with_its_message(error):
    with pytest.raises(SystemExit, match=r"^gone$"), cli_errors():
        raise error


def test_cli_errors_further_errors_are_listed():
    with pytest.raises(SystemExit, match=r"^gone$"), cli_errors(RuntimeError):
        raise RuntimeError("gone")
    with pytest.raises(RuntimeError), cli_errors():
        raise RuntimeError("gone")


@pytest.mark.parametrize(("hint", "message"), [("", "Stopped."), ("Run it again.", "Stopped. Run it again.")])
def test_cli_errors_interrupt_exits_with_the_hint(hint, message):
    with pytest.raises(SystemExit) as caught, cli_errors(hint=hint):
        raise KeyboardInterrupt
    assert caught.value.code == message


def test_client_from_args_reads_arguments_and_token_of_the_environment(monkeypatch):
    monkeypatch.setenv("CAPTIONER_TOKEN", "secret")
    parser = argparse.ArgumentParser()
    add_endpoint_arguments(parser, retries=3)
    with client_from_args(parser.parse_args(["--endpoint", "http://host:1", "--concurrency", "2"])) as client:
        assert (client.endpoint, client.retries, client.concurrency) == ("http://host:1", 3, 2)
        assert client.transport.session.headers["Authorization"] == "Bearer secret"

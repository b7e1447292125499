"""The configuration of the gateway: what nginx accepts, and what is refused in one sentence."""

import json
from pathlib import Path

import pytest

from deploy.container.gateway import Gateway
from deploy.isolated_server import isolated_server
from deploy.torchserve import ServerError
from tests.helpers.commands import require_program
from tests.helpers.paths import ROOT
from tests.helpers.sandbox import TOKEN, make_certificate


@pytest.fixture
def server(tmp_path):
    """A TorchServe that is not running, with its key file."""
    template = ROOT / "deploy" / "container" / "config.properties"
    keys = {name: {"key": f"{name}-key"} for name in ("management", "inference", "API")}
    (tmp_path / "key_file.json").write_text(json.dumps(keys))
    return isolated_server(tmp_path, tmp_path, tmp_path, template)


@pytest.fixture
def build(tmp_path, server):
    """Builds a gateway with the content of a token file."""

    def build(tokens: str | None = TOKEN, tls: Path | None = None) -> Gateway:
        path = tmp_path / "tokens"
        path.write_text(tokens or "")
        return Gateway(
            server, tmp_path / "gateway", "127.0.0.1:1", "127.0.0.1:2", tls, path if tokens is not None else None
        )

    return build


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("", "holds no token: every request would be refused"),
        ("# a comment\n\n", "holds no token"),
        (f"{TOKEN}\nshort\n", "Line 2 of .* is no token: use 32 or more of"),
        (f'{TOKEN}"; }} server {{ listen 1; }}\n', "Line 1 of .* is no token"),
        (f"{TOKEN} {TOKEN}\n", "Line 1 of .* is no token"),
        (f"{TOKEN}é\n", "Line 1 of .* is no token"),
    ],
)
def test_gateway_with_invalid_tokens_raises_without_showing_them(build, tokens, message):
    with pytest.raises(ServerError, match=message) as raised:
        build(tokens)
    assert TOKEN not in str(raised.value)  # the message goes to a log


def test_gateway_with_missing_certificate_raises(build, tmp_path):
    with pytest.raises(ServerError, match=r"tls\.crt cannot be read \(No such file or directory\)"):
        build(tls=tmp_path / "nowhere")


def test_gateway_configuration_is_accepted_by_nginx_with_and_without_tls_and_tokens(build, tmp_path, monkeypatch):
    require_program("nginx", "nginx-light")
    make_certificate(tmp_path / "tls")
    monkeypatch.chdir(tmp_path)
    for tokens, tls in ((TOKEN, Path("tls")), (None, None)):
        gateway = build(tokens, tls)
        gateway.directory.mkdir(exist_ok=True)
        gateway.write()
        text = gateway.config.read_text()
        assert ("ssl_certificate" in text) == (gateway.tls is not None)
        assert ("if ($known" in text) == (gateway.tokens is not None)
        assert 'Authorization "Bearer inference-key"' in text
        assert "management-key" not in text
        assert gateway.config.stat().st_mode & 0o077 == 0


def test_gateway_reports_the_error_of_nginx(build, tmp_path):
    require_program("nginx", "nginx-light")
    (tmp_path / "tls").mkdir()
    for name in ("tls.crt", "tls.key"):
        (tmp_path / "tls" / name).write_text("no certificate")
    gateway = build(tls=tmp_path / "tls")
    gateway.directory.mkdir()
    with pytest.raises(ServerError, match=r"nginx rejects its configuration:\n.*cannot load certificate"):
        gateway.write()

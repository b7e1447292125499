"""The gateway's configuration: what it is made of, what nginx takes, what is refused with one sentence."""

import json
from pathlib import Path

import pytest

from deploy.container.entrypoint import serve
from deploy.container.gateway import Gateway
from deploy.testing import isolated_server
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
    """Makes a gateway with what a file of tokens holds."""

    def build(tokens: str | None = TOKEN, tls=None) -> Gateway:
        path = tmp_path / "tokens"
        path.write_text(tokens or "")
        return Gateway(
            server, tmp_path / "gateway", "127.0.0.1:1", "127.0.0.1:2", tls, path if tokens is not None else None
        )

    return build


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("", "holds no token: nobody could ask"),
        ("# a remark\n\n", "holds no token"),
        (f"{TOKEN}\nshort\n", "Line 2 of .* is no token: 32 or more of"),
        (f'{TOKEN}"; }} server {{ listen 1; }}\n', "Line 1 of .* is no token"),
        (f"{TOKEN} {TOKEN}\n", "Line 1 of .* is no token"),
        (f"{TOKEN}é\n", "Line 1 of .* is no token"),
    ],
)
def test_tokens_that_cannot_be(build, tokens, message):
    with pytest.raises(ServerError, match=message) as raised:
        build(tokens)
    assert TOKEN not in str(raised.value)  # it goes to a log


def test_files_that_are_not_there(build, tmp_path):
    with pytest.raises(ServerError, match=r"tls\.crt can't be read \(No such file or directory\)"):
        build(tls=tmp_path / "nowhere")


def test_nginx_takes_it_with_tls_and_tokens_and_without(build, tmp_path, monkeypatch):
    require_program("nginx", "nginx-light")
    make_certificate(tmp_path / "tls")
    monkeypatch.chdir(tmp_path)
    for tokens, tls in ((TOKEN, Path("tls")), (None, None)):
        gateway = build(tokens, tls)
        gateway.folder.mkdir(exist_ok=True)
        gateway.write()
        text = gateway.config.read_text()
        assert ("ssl_certificate" in text) == (gateway.tls is not None)
        assert ("if ($known" in text) == (gateway.tokens is not None)
        assert 'Authorization "Bearer inference-key"' in text
        assert "management-key" not in text
        assert gateway.config.stat().st_mode & 0o077 == 0


def test_what_nginx_says_is_told(build, tmp_path):
    require_program("nginx", "nginx-light")
    (tmp_path / "tls").mkdir()
    for name in ("tls.crt", "tls.key"):
        (tmp_path / "tls" / name).write_text("no certificate")
    gateway = build(tls=tmp_path / "tls")
    gateway.folder.mkdir()
    with pytest.raises(ServerError, match=r"nginx does not take its configuration:\n.*cannot load certificate"):
        gateway.write()


def test_a_dead_gateway_ends_it_all(build, server, monkeypatch):
    gateway = build()
    monkeypatch.setattr(server, "start", lambda: None)
    monkeypatch.setattr(gateway, "start", lambda: None)
    with pytest.raises(ServerError, match="The gateway, nginx, has died"):
        serve(server, gateway, 0)

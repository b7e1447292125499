"""The entry point of the container ends when one of its processes does."""

import json

import pytest

from deploy.container.entrypoint import serve
from deploy.container.gateway import Gateway
from deploy.isolated_server import isolated_server
from deploy.torchserve import ServerError
from tests.helpers.paths import ROOT


def test_serve_with_dead_gateway_raises(tmp_path, monkeypatch):
    (tmp_path / "key_file.json").write_text(json.dumps({"inference": {"key": "key"}}))
    template = ROOT / "deploy" / "container" / "config.properties"
    server = isolated_server(tmp_path, tmp_path, tmp_path, template)
    gateway = Gateway(server, tmp_path / "gateway", "127.0.0.1:1", "127.0.0.1:2", None, None)
    monkeypatch.setattr(server, "start", lambda: None)
    monkeypatch.setattr(gateway, "start", lambda: None)
    with pytest.raises(ServerError, match="The gateway, nginx, has died"):
        serve(server, gateway, 0)

"""The demonstration as one command, with tiny models whose captions differ: two TorchServes, HAProxy, real load."""

import json
import subprocess
import sys

import pytest

from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.commands import require_program
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> dict[str, dict]:
    require_program("haproxy", "haproxy")
    directory = tmp_path_factory.mktemp("demo")
    old, new = (write_tiny_bundle(directory / f"bundle{seed}", seed=seed) for seed in (1, 2))
    settings = ["--seconds", "1", "--canary", "200", "--clients", "6", "--results", directory]
    command = [sys.executable, "-m", "deploy.demo", "--model", old, "--next", new, *settings]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    content = json.loads((directory / "demo" / "demo.json").read_text())
    assert done.stdout == (directory / "demo" / "demo.md").read_text()
    return {scene["name"]: scene for scene in content["scenarios"]}


def test_scenarios_lose_no_request_and_give_no_wrong_caption(scenes):
    assert len(scenes) == 10
    for scene in scenes.values():
        assert scene["requests"] == sum(scene["versions"].values()) > 0
        assert (scene["lost"], scene["wrong"], scene["failure"]) == (0, 0, "")


@pytest.mark.parametrize("whose", ["server", "worker"])
def test_kill_is_noticed_and_the_service_recovers(scenes, whose):
    figures = scenes[f"a {whose} killed"]["figures"]
    assert 0 < figures["out of the proxy after s"] < figures["recovered after s"]
    assert scenes[f"a {whose} killed"]["versions"].keys() == {"1.0"}


def test_requests_of_a_killed_server_go_to_the_other(scenes):
    assert scenes["a server killed"]["proxy_retries"] > 0


def test_rolling_upgrade_fails_no_request(scenes):
    upgrades = [scenes[f"upgrade of server {name}"] for name in ("two", "one")]
    assert [upgrade["client_errors"] for upgrade in upgrades] == [{}, {}]
    assert upgrades[0]["versions"]["1.0"] > 0
    assert upgrades[1]["versions"].keys() == {"1.0", "2.0"}


def test_canary_gets_its_share_until_the_roll_back(scenes):
    canary = scenes["canary of 10 %"]
    share = canary["versions"]["2.0"] / canary["requests"]
    assert 0.03 < share < 0.17
    assert scenes["roll-back"]["client_errors"] == {}

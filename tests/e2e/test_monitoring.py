"""Alerts and dashboard: promtool, and a Prometheus that scrapes a real TorchServe and HAProxy."""

import json
import re
import shutil
import subprocess
from itertools import combinations

import pytest
import requests
import yaml

from deploy.haproxy.proxy import Proxy
from deploy.isolated_server import free_ports
from eval.client import Client
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.commands import require_program
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.polling import eventually
from tests.helpers.servers import running_server

MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
RULES = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
NAMES = [rule["alert"] for rule in RULES]
KEYWORDS = {"and", "or", "unless"}


def selectors(expression: str) -> set[str]:
    """Return the metrics of a PromQL expression with their label matchers."""
    expression = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", expression)
    found = re.findall(r"(?<![\w$\"])([a-zA-Z_]\w*)\b(\{[^}]*\})?(\s*\()?", expression)
    return {name + matchers for name, matchers, call in found if not call and name not in KEYWORDS}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A tiny model; a server of its own, because load or errors of other tests would raise alerts."""
    directory = tmp_path_factory.mktemp("server")
    with running_server(directory, write_tiny_bundle(directory / "bundle")) as server:
        yield server


@pytest.fixture(scope="module")
def ask(server, tmp_path_factory):
    """Query a Prometheus with the project's configuration, but other addresses and interval, after a request."""
    require_program("haproxy", "haproxy")
    program = require_program("prometheus", "prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    proxy = Proxy({"one": server}, directory / "haproxy.log")
    [port] = free_ports(1)
    text = (MONITORING / "prometheus.yml").read_text()
    for documented, actual in (("127.0.0.1:8082", server.metrics), ("127.0.0.1:8404", proxy.metrics), ("15s", "1s")):
        assert documented in text
        text = text.replace(documented, actual.removeprefix("http://"))
    (directory / "prometheus.yml").write_text(text)
    shutil.copy(MONITORING / "alerts.yml", directory)
    url = f"http://127.0.0.1:{port}/api/v1"
    command = [program, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    command.append(f"--web.listen-address=127.0.0.1:{port}")
    process = None

    def ask(path: str, **parameters: str) -> dict:
        response = requests.get(f"{url}/{path}", params=parameters, timeout=30).json()
        assert response["status"] == "success", response
        return response["data"]

    def answers() -> bool:
        try:
            return bool(ask("query", query="up == 1 and on() count(up == 1) == 2")["result"])
        except requests.RequestException:  # it does not listen yet, or has not started: no JSON
            return False

    try:
        proxy.start()
        with (directory / "prometheus.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually(answers, seconds=120, pause=0.2)
        eventually(lambda: proxy.ready("one"))
        with Client(proxy.rest) as client:
            client.caption(PHOTOS[0].read_bytes())
        yield ask
    finally:
        proxy.stop()
        if process:
            process.terminate()
            process.wait(timeout=30)


def test_selectors_of_an_expression_are_found():
    expression = 'sum by (a) (rate(x_total{b=~"c|d"}[5m])) / on (a) up unless histogram_quantile(0.9, y_bucket) > 2e6'
    assert selectors(expression) == {'x_total{b=~"c|d"}', "up", "y_bucket"}


@pytest.mark.parametrize(
    "command", ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts.test.yml"]
)
def test_promtool_accepts_the_files(command):
    done = subprocess.run(
        [require_program("promtool", "prometheus"), *command.split()], cwd=MONITORING, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("expression", [rule["expr"] for rule in RULES], ids=NAMES)
def test_metrics_of_each_alert_exist(ask, expression):
    for selector in selectors(expression):
        eventually(lambda selector=selector: ask("query", query=selector)["result"], seconds=30, pause=0.5)


def test_healthy_server_raises_no_alert(ask):
    def states() -> dict[str, str]:
        rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        return {rule["name"]: rule["state"] for rule in rules}

    assert states().keys() == set(NAMES)
    # There is no server two. Alerts from before the first scrape resolve.
    eventually(lambda: {name for name, state in states().items() if state != "inactive"} == {"CaptionerServerDown"})


@pytest.mark.parametrize("query", QUERIES)
def test_queries_of_the_dashboard_have_results(ask, query):
    query = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
    eventually(lambda: ask("query", query=query)["result"], seconds=30, pause=0.5)


def test_each_alert_has_a_runbook_entry_and_tests():
    page = (ROOT / "docs" / "runbook.md").read_text()
    assert sorted(re.findall(r"^## (Captioner\w+)$", page, re.M)) == sorted(NAMES)
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
    tests = yaml.safe_load((MONITORING / "alerts.test.yml").read_text())["tests"]
    tested = [one for test in tests for one in test.get("alert_rule_test", [])]
    assert {one["alertname"] for one in tested if one.get("exp_alerts")} == set(NAMES)


def test_dashboard_is_well_formed():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "instance"}
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
        assert max(one["x"] + one["w"], other["x"] + other["w"]) <= 24


def test_panels_and_settings_of_the_runbook_exist():
    page = (ROOT / "docs" / "runbook.md").read_text()
    for title in re.findall(r"[Tt]he panel \"([^\"]+)\"", page):
        assert title in [panel["title"] for panel in PANELS]
    settings = (ROOT / "handler" / "model-config.yaml").read_text()
    for name in ("batchSize", "max_batch_size", "max_pixels", "responseTimeout"):
        assert f"`{name}`" in page
        assert name in settings

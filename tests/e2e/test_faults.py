"""Evaluation runs through a server that is killed with SIGKILL, and runs that are killed themselves."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from deploy.torchserve import is_jvm
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.eval_runs import eval_command, write_split
from tests.helpers.fault_injection import RECOVERY_TIMEOUT, report, wait_for_service
from tests.helpers.paths import ROOT
from tests.helpers.polling import eventually
from tests.helpers.servers import running_server

pytestmark = pytest.mark.slow
COUNT = 160


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Path:
    return write_split(tmp_path_factory.mktemp("data"), COUNT)


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    """A server to kill."""
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    with running_server(tmp_path_factory.mktemp("mortal"), bundle, threads=1) as server:
        yield server


def captions(results: Path, name: str) -> str:
    return (results / name / "captions.json").read_text()


@pytest.fixture(scope="module")
def undisturbed(mortal, split, tmp_path_factory) -> str:
    results = tmp_path_factory.mktemp("results")
    subprocess.run(eval_command(mortal, split, results, "calm"), cwd=ROOT, check=True, capture_output=True)
    return captions(results, "calm")


def wait_for(log: Path, answers: int) -> None:
    eventually(lambda: log.exists() and log.read_text().count('"caption"') >= answers)


@pytest.mark.parametrize("whose", ["the server's Java", "the worker"])
def test_run_through_a_killed_server_has_the_same_captions(mortal, split, undisturbed, tmp_path, whose):
    command = eval_command(mortal, split, tmp_path, "run")
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "run" / "requests.jsonl", COUNT // 4)
    assert mortal.ready()
    start = time.perf_counter()
    for victim in mortal.processes():
        if is_jvm(victim) == (whose == "the server's Java"):
            os.kill(victim.pid, signal.SIGKILL)
    eventually(lambda: not mortal.ready(), RECOVERY_TIMEOUT)
    if whose == "the server's Java":
        mortal.start()
    seconds = wait_for_service(mortal, start)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    content = json.loads((tmp_path / "run" / "scores.json").read_text())
    found, calm = (json.loads(text) for text in (captions(tmp_path, "run"), undisturbed))
    report(f"{whose} killed", COUNT, content["failed"], sum(one not in calm for one in found), seconds)
    assert found == calm


def test_run_killed_repeatedly_resumes_without_asking_twice(mortal, split, undisturbed, tmp_path):
    log = tmp_path / "run" / "requests.jsonl"
    for answers in range(20, COUNT, 40):
        process = subprocess.Popen(eval_command(mortal, split, tmp_path, "run"), cwd=ROOT, stderr=subprocess.DEVNULL)
        wait_for(log, answers)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(eval_command(mortal, split, tmp_path, "run"), cwd=ROOT, check=True, capture_output=True)
    assert captions(tmp_path, "run") == undisturbed
    answered = [json.loads(line).get("image_id") for line in log.read_text().splitlines()]
    assert sorted(image for image in answered if image is not None) == list(range(COUNT))  # each once

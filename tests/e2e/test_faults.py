"""A run through a real server that is killed with `kill -9` in its midst, and one whose harness is."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from support import PHOTOS, ROOT, eventually, running, write_tiny_bundle

COUNT = 160


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Path:
    """160 pictures in COCO's layout, cut from the samples."""
    root = tmp_path_factory.mktemp("data")
    (root / "many").mkdir()
    (root / "annotations").mkdir()
    images, annotations = [], []
    for number in range(COUNT):
        with Image.open(PHOTOS[number % len(PHOTOS)]) as photo:
            side = min(photo.size) // 2
            left = (photo.width - side) * number // COUNT
            photo.convert("RGB").crop((left, 0, left + side, side)).save(root / "many" / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg"})
        annotations.append({"id": number, "image_id": number, "caption": f"a dog runs through the grass {number}"})
    content = {"images": images, "annotations": annotations}
    (root / "annotations" / "captions_many.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    """A server to kill."""
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    with running(tmp_path_factory.mktemp("mortal"), bundle) as server:
        yield server


def command(server, split: Path, results: Path, name: str) -> list[str]:
    arguments = [split, "many", "--endpoint", server.inference, "--results", results, "--run", name, "--concurrency", 4]
    return [sys.executable, "-m", "eval.run", *map(str, arguments), "--retries", "12"]


def captions(results: Path, name: str) -> str:
    return (results / name / "captions.json").read_text()


@pytest.fixture(scope="module")
def undisturbed(mortal, split, tmp_path_factory) -> str:
    results = tmp_path_factory.mktemp("results")
    subprocess.run(command(mortal, split, results, "calm"), cwd=ROOT, check=True, capture_output=True)
    return captions(results, "calm")


def wait_for(log: Path, answers: int) -> None:
    eventually(lambda: log.exists() and log.read_text().count('"caption"') >= answers)


@pytest.mark.parametrize("whose", ["the server's Java", "the worker"])
def test_the_server_is_killed_and_started_again(mortal, split, undisturbed, tmp_path, whose):
    process = subprocess.Popen(command(mortal, split, tmp_path, "run"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "run" / "requests.jsonl", COUNT // 4)
    for victim in mortal.processes():
        if ("org.pytorch.serve.ModelServer" in victim.cmdline()) == (whose == "the server's Java"):
            os.kill(victim.pid, signal.SIGKILL)
    if whose == "the server's Java":
        mortal.start()
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    content = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert content["failed"] == 0
    assert captions(tmp_path, "run") == undisturbed


def test_the_harness_is_killed_again_and_again(mortal, split, undisturbed, tmp_path):
    log = tmp_path / "run" / "requests.jsonl"
    for answers in range(20, COUNT, 40):
        process = subprocess.Popen(command(mortal, split, tmp_path, "run"), cwd=ROOT, stderr=subprocess.DEVNULL)
        wait_for(log, answers)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(mortal, split, tmp_path, "run"), cwd=ROOT, check=True, capture_output=True)
    assert captions(tmp_path, "run") == undisturbed
    answered = [json.loads(line).get("image_id") for line in log.read_text().splitlines()]
    assert sorted(image for image in answered if image is not None) == list(range(COUNT))  # none twice

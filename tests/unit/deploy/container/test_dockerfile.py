"""The Dockerfile, without a container engine: hadolint, and its steps run on the files that it copies."""

import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from deploy.archive import build_archive
from deploy.container.entrypoint import PRODUCTION
from deploy.torchserve import load_properties
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import ROOT
from tests.helpers.sandbox import USER

DOCKERFILE = ROOT / "deploy" / "container" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
BUILD, RUNTIME = TEXT.split("\nFROM ")[1:]
SCRIPTS = Path(sys.executable).parent
MODEL = "pretrained"  # default of the build argument


def copied(stage: str) -> list[tuple[list[str], str]]:
    """Return sources in the checkout and the target of every COPY of a stage."""
    lines = [line.split() for line in re.findall(r"^COPY (?!--from)(.+)$", stage, re.MULTILINE)]
    return [([source.replace("${MODEL}", MODEL) for source in sources], target) for *sources, target in lines]


def copy_stage(stage: str, directory: Path, skip: str = "") -> None:
    """Copy the files of a stage like the engine: a directory's content, a file under its name."""
    for sources, name in copied(stage):
        target = directory / name.replace("${MODEL}", MODEL).removeprefix("/opt/captioner/")
        for path in (path for source in sources if source != skip for path in ROOT.glob(source)):
            if path.is_dir():
                shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)


def hadolint(path: Path) -> subprocess.CompletedProcess:
    return subprocess.run([SCRIPTS / "hadolint", path], capture_output=True, text=True, check=False)


def test_dockerfile_has_no_hadolint_findings(tmp_path):
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout
    worse = tmp_path / "Dockerfile"
    worse.write_text(TEXT.replace("# hadolint ignore=DL3008\n", ""))
    assert "DL3008" in hadolint(worse).stdout  # the check can fail


def test_dockerignore_allows_what_is_copied_and_no_secrets():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule[0] == "!"]
    for source in [source for stage in (BUILD, RUNTIME) for sources, _ in copied(stage) for source in sources]:
        assert list(ROOT.glob(source)), source
        assert any(source == rule or source.startswith(f"{rule}/") for rule in allowed), source
    for secret in ("key_file.json", ".git/config", ".venv/pyvenv.cfg", "logs/ts_log.log", "shared/data"):
        assert not any(fnmatch(secret, f"{rule}*") for rule in allowed), secret


@pytest.mark.slow
def test_build_stage_packs_the_same_archive_from_its_files_alone(tmp_path):
    copy_stage(BUILD, tmp_path, skip=MODEL)
    bundle = write_tiny_bundle(tmp_path / MODEL)  # the shipped model takes half a minute to convert
    [command] = re.findall(r"^RUN python (-m deploy\.archive .+)$", BUILD, re.MULTILINE)
    words = command.replace('"${MODEL}"', MODEL).replace("/opt/captioner", str(tmp_path)).split()
    subprocess.run([sys.executable, *words], cwd=tmp_path, check=True, capture_output=True)
    expected = build_archive(bundle, tmp_path / "expected")
    assert (tmp_path / "model_store" / "captioner.mar").read_bytes() == expected.read_bytes()


def test_runtime_stage_has_all_modules_of_the_entry_point_and_no_pytorch(tmp_path):
    copy_stage(RUNTIME, tmp_path)
    code = """
        import sys, deploy.container.entrypoint
        packages = ("deploy", "eval", "handler", "training")
        print(*(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in packages))
        print("torch" in sys.modules)
    """
    code = "\n".join(line.strip() for line in code.strip().splitlines())
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    files, has_torch = done.stdout.splitlines()
    assert all(Path(file).is_relative_to(tmp_path) for file in files.split()), files
    assert has_torch == "False"


def test_image_runs_like_the_sandbox_of_the_tests():
    """User, ports, directories and command are those that tests/helpers/sandbox.py assumes."""
    assert f"USER {USER}:{USER}\n" in RUNTIME
    assert "EXPOSE 8443 9000\n" in RUNTIME
    assert 'ENTRYPOINT ["python", "-m", "deploy.container.entrypoint"]\n' in RUNTIME
    assert "WORKDIR /opt/captioner\nCOPY" not in RUNTIME
    assert "/opt/captioner/model_store /opt/captioner/model_store\n" in RUNTIME
    assert load_properties(str(PRODUCTION / "config.properties"))["model_store"] == "/opt/captioner/model_store"


def test_healthcheck_succeeds_only_while_ready():
    class Gateway(BaseHTTPRequestHandler):
        status = 200

        def do_GET(self):
            self.send_response(self.status if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    [check] = re.findall(r"^HEALTHCHECK .+\\\n +CMD (\[.+\])$", RUNTIME, re.MULTILINE)
    server = HTTPServer(("127.0.0.1", 0), Gateway)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        command = [sys.executable, *json.loads(check.replace(":9000", f":{server.server_port}"))[1:]]
        assert subprocess.run(command, check=False).returncode == 0
        Gateway.status = 503
        assert subprocess.run(command, check=False, capture_output=True).returncode == 1
    finally:
        server.shutdown()
        server.server_close()

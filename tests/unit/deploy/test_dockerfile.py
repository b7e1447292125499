"""The image's recipe, without an engine: hadolint's word, and its steps on the files that it would be given."""

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

from deploy.archive import build_archive
from tests.helpers.paths import ROOT

DOCKERFILE = ROOT / "deploy" / "container" / "Dockerfile"
SCRIPTS = Path(sys.executable).parent


def copied() -> list[str]:
    """What is copied out of the checkout, with the bundle that is the default."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    return [source.replace("${MODEL}", "pretrained") for line in lines for source in line.split()]


def hadolint(path: Path) -> subprocess.CompletedProcess:
    return subprocess.run([SCRIPTS / "hadolint", path], capture_output=True, text=True, check=False)


def test_hadolint_has_nothing_to_say(tmp_path):
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout
    worse = tmp_path / "Dockerfile"
    worse.write_text(DOCKERFILE.read_text().replace("# hadolint ignore=DL3008\n", ""))
    assert "DL3008" in hadolint(worse).stdout  # it does look


def test_what_is_copied_is_let_through():
    """.dockerignore lets nothing through but what it names."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule[0] == "!"]
    for source in copied():
        assert list(ROOT.glob(source)), source
        assert any(source == rule or source.startswith(f"{rule}/") for rule in allowed), source
    for secret in ("key_file.json", ".git/config", ".venv/pyvenv.cfg", "logs/ts_log.log", "shared/data"):
        assert not any(fnmatch(secret, f"{rule}*") for rule in allowed), secret


def test_the_archive_is_built_of_what_is_copied(tmp_path):
    """The command of the build stage, in a folder with its files alone; what it makes is what `make archive` makes."""
    for source in copied():
        for path in ROOT.glob(source):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
    [command] = re.findall(r"^RUN python (-m training\.archive .+)$", DOCKERFILE.read_text(), re.MULTILINE)
    words = command.replace('"${MODEL}"', "pretrained").replace("/opt/captioner", str(tmp_path)).split()
    subprocess.run([sys.executable, *words], cwd=tmp_path, check=True, capture_output=True)
    theirs = build_archive(ROOT / "pretrained", tmp_path / "theirs")
    assert (tmp_path / "model_store" / "captioner.mar").read_bytes() == theirs.read_bytes()


def test_it_runs_as_its_sandbox_in_the_tests_does():
    """The user, the ports, the folders and the command that tests/helpers/sandbox.py takes for the image's."""
    from deploy.container.entrypoint import PRODUCTION
    from deploy.torchserve import load_properties
    from tests.helpers.sandbox import USER

    text = DOCKERFILE.read_text()
    assert f"USER {USER}:{USER}\n" in text
    assert "EXPOSE 8443 9000\n" in text
    assert 'ENTRYPOINT ["python", "-m", "deploy.container.entrypoint"]\n' in text
    assert "WORKDIR /opt/captioner\nCOPY" not in text
    assert "/opt/captioner/model_store /opt/captioner/model_store\n" in text
    assert load_properties(str(PRODUCTION / "config.properties"))["model_store"] == "/opt/captioner/model_store"


def test_its_health_is_true_readiness():
    """The command of HEALTHCHECK, run against an address that answers as the gateway does."""
    import json
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Gateway(BaseHTTPRequestHandler):
        status = 200

        def do_GET(self):
            self.send_response(self.status if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    [check] = re.findall(r"^HEALTHCHECK .+\\\n +CMD (\[.+\])$", DOCKERFILE.read_text(), re.MULTILINE)
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

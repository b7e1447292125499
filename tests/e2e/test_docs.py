"""The commands and the Python examples of the documentation, run as written but for ports and paths."""

import contextlib
import io
import json
import re
import subprocess

import pytest

from tests.helpers.documents import PAGES, code_blocks, shell_commands, with_server_urls
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.docs

# Commands that are not run here: the pattern of each kind, and what tests it.
ELSEWHERE = {
    r"make ": "tests/unit/test_documents.py: the targets exist; each runs a module with tests of its own",
    r"curl .*/captioner/[12]\.0|curl -X PUT": "test_versions.py",
    r"curl .*https://127\.0\.0\.1:8443": "test_container.py",
    r"echo .*\| socat |haproxy |export CAPTIONER": "test_proxy.py",
    r"torchserve |until curl|export TS_CONFIG_FILE|\. \.venv/bin/activate": "test_serve.py",
    r"\.venv/bin/python -m deploy\.container": "test_container.py",
    r"docker |kubectl |mkdir |openssl |cp |chown |sed -i": "tests/unit/deploy: the image and the manifests",
    r".*-m training\.|\.venv/bin/torchrun|for seed in": "tests/e2e/training",
    r"apt-get |dpkg-deb |\.venv/bin/python docs/examples/": "an example with the data of another project",
    r"git |cd |pip |python3? -m venv|\.venv/bin/pre-commit|npx |\.venv/bin/(ruff|mypy|pytest|python -m pytest)": "CI",
}
RUN = (
    r"curl |echo |\.venv/bin/captioner |\.venv/bin/python -m (handler|eval\.caption|eval\.faithfulness|deploy\.batch)\b"
)
COMMANDS = [
    command
    for command in dict.fromkeys(command for page in PAGES for command in shell_commands(page))
    if not any(re.match(pattern, command, re.S) for pattern in ELSEWHERE)
]
EXAMPLES = [(page, code) for page in PAGES for language, code in code_blocks(page) if language == "python"]


def test_pages_show_commands_of_known_kinds():
    assert len(COMMANDS) >= 10
    assert [command for command in COMMANDS if not re.match(RUN, command)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_command_does_what_the_page_says(server, command, flickr8k, tmp_path):
    if "eval.caption" in command:
        command += f" --endpoint {server.inference}"
    command = with_server_urls(server, command).replace("/tmp/", f"{tmp_path}/")  # noqa: S108 replaced
    command = command.replace("../shared/data/flickr8k", str(flickr8k))
    command = re.sub(r"--images 200", "--images 1", command)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figure, captions = tmp_path / "explained.png", tmp_path / "captions.jsonl"
    if str(figure) in command:
        assert figure.read_bytes().startswith(b"\x89PNG")
    elif "eval.caption" in command or "captioner samples/" in command:
        lines = captions.read_text() if captions.exists() else done.stdout
        assert len(lines.splitlines()) in (1, 3, 7)
    elif "deploy.batch" in command:
        assert "7 have a caption." in done.stdout
    elif "eval.faithfulness" in command:
        assert "| attention |" in done.stdout
    elif "/metrics" in command:
        assert "captioner_images_total" in done.stdout
    elif "stream=true" in command:
        assert done.stdout.count("event: ") > 5
    else:
        response = json.loads(done.stdout)
        assert "code" not in response
        assert "predictions" not in response or all("caption" in one for one in response["predictions"])


@pytest.mark.parametrize(("page", "code"), EXAMPLES, ids=[page for page, _ in EXAMPLES])
def test_documented_python_example_prints_its_result(server, page, code, tmp_path, monkeypatch):
    """Run it in this process, which has imported PyTorch already, with globals of its own."""
    monkeypatch.chdir(ROOT)
    code = with_server_urls(server, code).replace("/tmp/", f"{tmp_path}/")  # noqa: S108 replaced
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(code, page, "exec"), {"__name__": "__main__"})  # noqa: S102 our own pages
    assert output.getvalue().strip()

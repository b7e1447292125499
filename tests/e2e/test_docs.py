"""The commands that the pages show, run as they stand but for the ports."""

import json
import re
import subprocess

import pytest

from support import ROOT


def blocks(page: str, heading: str | None = None) -> list[tuple[str, str]]:
    """A page's code blocks with their language; those below a heading where one is named."""
    text = (ROOT / page).read_text()
    if heading:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def commands() -> list[str]:
    """Each command of the pages that asks a running endpoint."""
    shells = [code for language, code in blocks("docs/api.md") + blocks("README.md", "Ask it") if language == ""]
    lines = [line for code in shells for line in code.splitlines() if not line.startswith("#")]
    found: list[str] = []
    for line in lines:
        if re.match(r"(curl|echo|\.venv)\b|\.venv", line):
            found.append(line)
        else:
            found[-1] += f"\n{line}"
    return found


def at(server, text: str) -> str:
    """A text with the server's addresses in place of the documented ones."""
    known = {"http://127.0.0.1:8080": server.inference, "http://127.0.0.1:8081": server.management}
    for address, its in known.items():
        text = text.replace(address, its)
    return text


def test_the_pages_show_commands():
    assert len(commands()) >= 10


@pytest.mark.parametrize("command", commands())
def test_a_command(server, command, tmp_path):
    written = tmp_path / "captions.jsonl"
    if ".venv/bin/python -m" in command and "http" not in command:
        command += f" --endpoint {server.inference}"
    command = at(server, command).replace("/tmp/captions.jsonl", str(written))  # noqa: S108
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "eval.client" in command:
        lines = written.read_text() if written.exists() else done.stdout
        assert len(lines.splitlines()) in (3, 7)
    elif "stream=true" in command:
        assert done.stdout.count("event: ") > 5
    else:
        answer = json.loads(done.stdout)
        assert "code" not in answer
        assert "predictions" not in answer or all("caption" in one for one in answer["predictions"])


def test_the_python_example(server, capsys, monkeypatch):
    [code] = [code for language, code in blocks("docs/api.md") if language == "python"]
    monkeypatch.chdir(ROOT)
    exec(at(server, code), {})  # noqa: S102
    assert len(capsys.readouterr().out.split()) > 8


def test_scoring_from_python(capsys):
    [code] = [code for language, code in blocks("docs/evaluation.md") if language == "python"]
    exec(code, {})  # noqa: S102
    assert [float(number) > 0 for number in capsys.readouterr().out.split()] == [True, True]


def test_every_target_that_the_pages_name_is_there():
    makefile = (ROOT / "Makefile").read_text()
    pages = "".join((ROOT / page).read_text() for page in ("README.md", "docs/evaluation.md", "training/README.md"))
    named = set(re.findall(r"^make ([a-z]+)", pages, re.M))
    assert {"serve", "eval", "compare", "score", "bench", "train", "test"} <= named
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in named)


def test_the_options_and_errors_are_all_in_the_page():
    from handler.openapi import DESCRIPTIONS, ERRORS
    from handler.telemetry import METRICS

    page = (ROOT / "docs" / "api.md").read_text()
    for name in [*DESCRIPTIONS, *METRICS, *(f"| {kind.code} | `{kind.__name__}`" for kind in ERRORS)]:
        assert (name if name.startswith("|") else f"`{name}`") in page

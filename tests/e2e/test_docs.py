"""The commands that the pages show, run as they stand but for the ports."""

import json
import re
import subprocess
import sys

import pytest

from tests.helpers.documents import code_blocks, with_server_urls
from tests.helpers.paths import ROOT

PAGES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))
SHELLS = [code for page in PAGES for language, code in code_blocks(page) if language == ""] + [
    code
    for heading in ("Use the endpoint", "Caption without a server")
    for language, code in code_blocks("README.md", heading)
    if language == ""
]
PYTHON = [
    (page, code) for page in ["README.md", *PAGES] for language, code in code_blocks(page) if language == "python"
]


def commands() -> list[str]:
    """Each command of the pages but `make`'s, whose targets have tests of their own."""
    found: list[str] = []
    for line in (line for code in SHELLS for line in code.splitlines() if not line.startswith(("#", "make "))):
        if re.match(r"curl |echo |\.venv/", line):
            found.append(line)
        elif re.match(r"\S+\|n:\d+\|", line):
            continue  # a signature
        else:
            found[-1] += f"\n{line}"
    return list(dict.fromkeys(found))


def test_the_pages_show_commands():
    assert len(commands()) >= 10


@pytest.mark.parametrize("command", commands())
def test_a_command(server, command, flickr8k, tmp_path):
    if "eval.caption" in command:
        command += f" --endpoint {server.inference}"
    command = with_server_urls(server, command).replace("/tmp/", f"{tmp_path}/")  # noqa: S108
    command = command.replace("../shared/data/flickr8k", str(flickr8k)).replace("--images 200", "--images 2")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figure, captions = tmp_path / "explained.png", tmp_path / "captions.jsonl"
    if str(figure) in command:
        assert figure.read_bytes().startswith(b"\x89PNG")
    elif "eval.caption" in command:
        lines = captions.read_text() if captions.exists() else done.stdout
        assert len(lines.splitlines()) in (3, 7)
    elif "deploy.batch" in command:
        assert "7 have a caption." in done.stdout
    elif "eval.faithfulness" in command:
        assert "| attention |" in done.stdout
    elif "/metrics" in command:
        assert "captioner_images_total" in done.stdout
    elif "stream=true" in command:
        assert done.stdout.count("event: ") > 5
    else:
        answer = json.loads(done.stdout)
        assert "code" not in answer
        assert "predictions" not in answer or all("caption" in one for one in answer["predictions"])


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page for page, _ in PYTHON])
def test_a_python_example(server, page, code, tmp_path):
    code = with_server_urls(server, code).replace("/tmp/", f"{tmp_path}/")  # noqa: S108
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_what_troubleshooting_quotes_is_said():
    """Each message of ours in the tables' first column stands in the code, whatever its values are."""
    theirs = {"InvalidKeyException", "ModelNotFoundException", "CANCELLED", "RESOURCE_EXHAUSTED"}
    theirs |= {"curl -d @photo.jpg", "Missing mandatory parameter --model-store"}
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    files = [path for folder in ("handler", "eval", "deploy", "training") for path in (ROOT / folder).rglob("*.py")]
    said = "".join(path.read_text() for path in [*files, ROOT / "Makefile"])
    cells = re.findall(r"^\| ([^|]+) \|", page.partition("## Captions")[0] + page.partition("## Scoring")[2], re.M)
    quoted = {text for cell in cells for text in re.findall(r"`([^`]+)`", cell)} - theirs
    assert len(quoted) > 15
    for text in quoted:
        pieces = re.split(r"'[^']*'|\b\d+\b|\S*captioner\S*", text)
        assert [piece for piece in pieces if piece.strip(" ,") not in said] == [], text


@pytest.mark.parametrize(
    "page", ["README.md", "training/README.md", "pretrained/README.md", "samples/README.md", *PAGES]
)
def test_every_link_leads_somewhere(page):
    """Files, and headings in them, as GitHub makes anchors of headings."""
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
            anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, target


def test_every_target_that_the_pages_name_is_there():
    makefile = (ROOT / "Makefile").read_text()
    pages = "".join((ROOT / page).read_text() for page in ("README.md", "training/README.md", *PAGES))
    named = set(re.findall(r"^make ([a-z-]+)", pages, re.M))
    assert {"serve", "eval", "compare", "score", "load-test", "train", "test"} <= named
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in named)


def test_the_options_and_errors_are_all_in_the_page():
    from handler.errors import REQUEST_ERRORS
    from handler.generation import GENERATION_OPTIONS
    from handler.serving.metrics import METRICS

    page = (ROOT / "docs" / "api.md").read_text()
    for name in [*GENERATION_OPTIONS, *METRICS, *(f"| {kind.code} | `{kind.__name__}`" for kind in REQUEST_ERRORS)]:
        assert (name if name.startswith("|") else f"`{name}`") in page

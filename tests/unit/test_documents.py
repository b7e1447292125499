"""The documentation against the code: links, make targets, modules, options, errors and messages."""

import importlib.util
import re

import pytest

from tests.helpers.documents import PAGES, shell_commands
from tests.helpers.paths import ROOT


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    """Anchors are made of headings as GitHub makes them."""
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
            anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, target


def test_make_targets_of_the_pages_exist():
    makefile = (ROOT / "Makefile").read_text()
    commands = [command for page in PAGES for command in shell_commands(page)]
    named = {target for command in commands for target in re.findall(r"\bmake ([a-z][a-z-]*)", command)}
    assert {"serve", "eval", "compare", "score", "load-test", "train", "test"} <= named
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.M)] == []


def test_modules_of_the_pages_exist():
    commands = [command for page in PAGES for command in shell_commands(page)]
    named = {module for command in commands for module in re.findall(r"python3? -m ([\w.]+)", command)}
    named |= {module for command in commands for module in re.findall(r"torchrun .* -m ([\w.]+)", command)}
    assert {"eval.caption", "training.train"} <= named
    assert [module for module in named if importlib.util.find_spec(module) is None] == []


def test_options_metrics_and_errors_are_in_the_page_of_the_api():
    from handler.errors import REQUEST_ERRORS
    from handler.generation import GENERATION_OPTIONS
    from handler.serving.metrics import METRICS

    page = (ROOT / "docs" / "api.md").read_text()
    for name in [*GENERATION_OPTIONS, *METRICS, *(f"| {kind.code} | `{kind.__name__}`" for kind in REQUEST_ERRORS)]:
        assert (name if name.startswith("|") else f"`{name}`") in page


def test_messages_of_the_troubleshooting_page_are_in_the_code():
    """Each message of this project in the first column of the tables is in the code, but for its values."""
    others = {
        "ErrorDataDecoderException",
        "InvalidKeyException",
        "ModelNotFoundException",
        "CANCELLED",
        "RESOURCE_EXHAUSTED",
    }
    others |= {"curl -d @photo.jpg", "Missing mandatory parameter --model-store"}
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    files = [path for name in ("handler", "eval", "deploy", "training") for path in (ROOT / name).rglob("*.py")]
    code = "".join(path.read_text() for path in [*files, ROOT / "Makefile"])
    cells = re.findall(r"^\| ([^|]+) \|", page.partition("## Captions")[0] + page.partition("## Scoring")[2], re.M)
    quoted = {text for cell in cells for text in re.findall(r"`([^`]+)`", cell)} - others
    assert len(quoted) > 15
    pieces = {text: re.split(r"'[^']*'|\b\d+\b|\S*captioner\S*", text) for text in quoted}
    assert [text for text in quoted if any(piece.strip(" ,") not in code for piece in pieces[text])] == []

"""The documentation's pages, the commands in them, and the addresses in these."""

import re
import shlex

from deploy.torchserve import TorchServe
from tests.helpers.paths import ROOT

PAGES = sorted(
    {
        str(page.relative_to(ROOT))
        for pattern in ("*.md", "docs/**/*.md", "*/README.md")
        for page in ROOT.glob(pattern)
        if not page.relative_to(ROOT).parts[0].startswith((".", "runs"))
    }
)
SHELL = ("", "sh", "bash", "shell", "console")  # languages of code blocks that hold commands
SIGNATURE = re.compile(r"\S+\|n:\d+\|")  # of scores; it is shown in a block without a language


def code_blocks(page: str, heading: str | None = None) -> list[tuple[str, str]]:
    """Return the code blocks of a page as (language, code).

    Args:
        page: Path below the repository's root.
        heading: Second-level heading; only the blocks below it are returned.
    """
    text = (ROOT / page).read_text()
    if heading:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.M | re.S)


def shell_commands(page: str) -> list[str]:
    """Return the commands in the code blocks of a page; those that continue on further lines are joined."""
    commands: list[str] = []
    for language, code in code_blocks(page):
        unfinished = ""
        shell = language in SHELL and not SIGNATURE.match(code)
        for line in code.splitlines() if shell else ():
            command = f"{unfinished}\n{line}" if unfinished else line.strip()
            if not command or command.startswith("#"):
                continue
            unfinished = command if _continues(command) else ""
            if not unfinished:
                commands.append(command)
        assert not unfinished, f"{page}: {unfinished}"
    return commands


def _continues(command: str) -> bool:
    try:
        words = shlex.split(command, comments=True)
    except ValueError:  # an open quotation
        return True
    return command.endswith(("\\", "|", "&&")) or words.count("do") > words.count("done")


def with_server_urls(server: TorchServe, text: str) -> str:
    """Replace the documented addresses in a text by those of a server."""
    urls = {
        "http://127.0.0.1:8080": server.inference,
        "http://127.0.0.1:8081": server.management,
        "http://127.0.0.1:8082": server.metrics,
    }
    for documented, actual in urls.items():
        text = text.replace(documented, actual)
    return text

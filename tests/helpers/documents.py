"""Code blocks of the documentation, and the addresses in them."""

import re

from deploy.torchserve import TorchServe
from tests.helpers.paths import ROOT


def code_blocks(page: str, heading: str | None = None) -> list[tuple[str, str]]:
    """Return the code blocks of a page as (language, code).

    Args:
        page: Path below the repository's root.
        heading: Second-level heading; only the blocks below it are returned.
    """
    text = (ROOT / page).read_text()
    if heading:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


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

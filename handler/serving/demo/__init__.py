"""The demo page: one HTML answer that holds its style, scripts, samples and data, and the policy that allows no more.

TorchServe lets a handler answer one GET and nothing below it, so there is no second request for a page to make.
"""

import base64
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from handler.generation import GenerationConfig
from handler.image import FORMATS
from handler.serving.demo.modules import join_modules
from handler.serving.openapi import DESCRIPTIONS
from handler.serving.options import RANGES
from handler.serving.parsing import Limits

FOLDER = Path(__file__).parent
# Each after those that it imports from.
MODULES = (
    "page.js", "token.js", "api.js", "picture.js", "heat.js", "words.js", "alternatives.js", "options.js", "copy.js",
    "camera.js", "samples.js", "sources.js", "card.js", "main.js",
)  # fmt: skip


class Page(NamedTuple):
    """What a browser gets.

    Attributes:
        html: the page.
        headers: of HTTP, fixed texts.
    """

    html: str
    headers: dict[str, str]


def render_page(model: dict[str, str], card: dict, defaults: GenerationConfig, limits: Limits) -> Page:
    """The page of a model.

    Args:
        model: name, version and digest.
        card: the bundle's.
        defaults: options of who names none.
        limits: on pictures.
    """
    css = _read("page.css")
    js = join_modules({name: _read(name) for name in MODULES})
    data = {
        "model": model,
        "card": card,
        "options": _options(defaults),
        "limits": asdict(limits),
        "formats": [f"image/{name.lower()}" for name in FORMATS],
        "samples": _samples(),
    }
    html = _read("page.html")
    for mark, part in (("/*css*/", css), ("/*js*/", js), ("/*data*/", _embed(data))):  # data last: it may hold marks
        html = html.replace(mark, part, 1)
    policy = {
        "default-src": "'none'",
        "script-src": f"'{_hash(js)}'",
        "style-src": f"'{_hash(css)}'",
        "img-src": "data: blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(self)",
        "Cache-Control": "no-store",
    }
    return Page(html, headers)


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a policy names what lies between a script's or a style's tags."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _embed(data: dict[str, Any]) -> str:
    """JSON that no text in it, a card's above all, can break out of: in HTML only a `<` ends an element."""
    # JSON has no NaN, which a card's scores may hold: a browser would refuse all of it.
    known = json.loads(json.dumps(data), parse_constant=lambda _: None)
    return json.dumps(known, separators=(",", ":")).replace("<", "\\u003c")


def _options(defaults: GenerationConfig) -> list[dict[str, Any]]:
    """What can be set, in the order of the ranges."""
    return [
        {
            "name": name,
            "low": low,
            "high": high,
            "step": 1 if isinstance(low, int) else 0.01 if high <= 1 else 0.05,
            "default": getattr(defaults, name),
            "description": DESCRIPTIONS[name],
        }
        for name, (low, high) in RANGES.items()
    ]


def _samples() -> list[dict[str, str]]:
    """Small copies of photos, with whom they are by and what allows their use."""
    samples = json.loads(_read("samples/credits.json"))
    for sample in samples:
        content = (FOLDER / "samples" / sample["file"]).read_bytes()
        sample["base64"] = base64.b64encode(content).decode()
    return samples

"""The demo page: one self-contained HTML document and the security headers that belong to it.

TorchServe lets a handler respond to one GET and to no path below it, so styles, scripts, samples and data are inlined.
The content security policy allows exactly the inlined style and script, by their hashes.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from handler.generation import GENERATION_OPTIONS, GenerationConfig
from handler.image import FORMATS

DIRECTORY = Path(__file__).parent
STYLES = ("base.css", "page.css", "result.css", "panels.css")
MODULES = ("dom.js", "api.js", "caption.js", "options.js", "app.js")  # each after the modules that it imports
IMPORT = re.compile(r'^import \{[^}]*\} from "\./[\w-]+\.js";\n+', re.M)
EXPORT = re.compile(r"^export (?=(async )?(function|class|const) )", re.M)


class Page(NamedTuple):
    """A rendered page.

    Attributes:
        html: The document.
        headers: HTTP headers to send with it.
    """

    html: str
    headers: dict[str, str]


def render_page(model: Mapping[str, str], card: Mapping[str, Any], defaults: GenerationConfig, max_bytes: int) -> Page:
    """Render the demo page of a model.

    Args:
        model: `name`, `version` and `digest` of the model.
        card: Model card of the bundle; every field is optional.
        defaults: Default generation options of the model.
        max_bytes: Maximum size of an image file that the endpoint accepts.
    """
    css = "".join(_read(name) for name in STYLES)
    js = concatenate_modules(_read(name) for name in MODULES)
    data = {
        "model": dict(model),
        "card": dict(card),
        "options": _options(defaults),
        "max_bytes": max_bytes,
        "formats": [f"image/{name.lower()}" for name in FORMATS],
        "samples": _samples(),
    }
    html = Template(_read("page.html")).substitute(css=css, js=js, data=_json_for_html(data))
    policy = {
        "default-src": "'none'",
        "script-src": _csp_hash(js),
        "style-src": _csp_hash(css),
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


def concatenate_modules(sources: Iterable[str]) -> str:
    """Join ES modules into one module by removing their imports and the keyword `export`.

    The modules then share one scope, so their top-level names must differ.

    Args:
        sources: Text of the modules, each after the modules that it imports.
    """
    return "\n".join(EXPORT.sub("", IMPORT.sub("", source)) for source in sources)


def _read(name: str) -> str:
    return (DIRECTORY / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """Return the source expression that allows an inline element with this content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json_for_html(data: Mapping[str, Any]) -> str:
    """Return JSON that cannot end the script element that holds it, whatever strings it contains."""
    # JSON has no NaN, which the scores of a card may contain; browsers would reject the whole document.
    finite = json.loads(json.dumps(data), parse_constant=lambda _: None)
    return json.dumps(finite, separators=(",", ":")).replace("<", "\\u003c")


def _options(defaults: GenerationConfig) -> list[dict[str, Any]]:
    """Describe the generation options for the form; those that are true or false have no range."""
    options = []
    for option in GENERATION_OPTIONS.values():
        if option.name == "attention":  # the page always requests it
            continue
        field = {"name": option.name, "default": getattr(defaults, option.name), "help": option.help}
        if option.min is not None and option.max is not None:
            step = 1 if option.type is int else 0.01 if option.max <= 1 else 0.05
            field |= {"min": 0 if option.allow_zero else option.min, "max": option.max, "step": step}
        options.append(field)
    return options


def _samples() -> list[dict[str, str]]:
    """Load the sample photos with their authors and licences."""
    samples: list[dict[str, str]] = json.loads(_read("samples/credits.json"))
    for sample in samples:
        content = (DIRECTORY / "samples" / sample["file"]).read_bytes()
        sample["base64"] = base64.b64encode(content).decode()
    return samples

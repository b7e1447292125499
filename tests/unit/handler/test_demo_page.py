"""The demo page as it is rendered: one answer, held together by a policy of hashes, that no text in it can break."""

import base64
import hashlib
import json
import re
from dataclasses import asdict

import pytest

from handler.generation import GenerationConfig
from handler.serving.demo import render_page
from handler.serving.demo.modules import join_modules
from handler.serving.parsing import Limits

MODEL = {"name": "captioner", "version": "1.0", "digest": "sha256:abc"}


def render(card=None, defaults=GenerationConfig(), limits=None):
    return render_page(MODEL, card or {}, defaults, limits or Limits())


def element(html: str, opening: str) -> str:
    tag = opening.split()[0]
    [content] = re.findall(rf"<{re.escape(opening)}>(.*?)</{tag}>", html, re.DOTALL)
    return content


def data(page) -> dict:
    return json.loads(element(page.html, 'script type="application/json" id="endpoint"'))


def test_the_policy_allows_what_is_in_the_page_and_nothing_else():
    page = render()
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    for directive, opening in (("script-src", 'script type="module"'), ("style-src", "style")):
        digest = hashlib.sha256(element(page.html, opening).encode()).digest()
        assert policy.pop(directive) == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert policy == {
        "default-src": "'none'",
        "img-src": "data: blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_the_headers_keep_the_page_to_itself():
    headers = render().headers
    del headers["Content-Security-Policy"]
    assert headers == {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(self)",
        "Cache-Control": "no-store",
    }


def test_all_is_in_the_page():
    html = render().html
    assert not re.search(r"/\*(css|js|data)\*/", html)
    assert not re.search(r"""\s(src|href)="(?!data:)""", html.split("<script")[0])
    assert not re.search(r"\sstyle=|\son\w+=", html.split("<script")[0])  # the policy would refuse them
    assert "@import" not in html
    assert "url(" not in element(html, "style")
    assert len(html) < 300_000


def test_the_data_says_what_can_be_set():
    defaults, limits = GenerationConfig(beam_size=3, length_penalty=0.65), Limits(max_bytes=1000)
    found = data(render({"name": "a card"}, defaults, limits))
    assert found["model"] == MODEL
    assert found["card"] == {"name": "a card"}
    assert found["limits"] == asdict(limits)
    assert "image/jpeg" in found["formats"]
    options = {option["name"]: option for option in found["options"]}
    assert options["beam_size"] | {"description": ""} == {
        "name": "beam_size", "low": 1, "high": 10, "step": 1, "default": 3, "description": "",
    }  # fmt: skip
    assert options["length_penalty"]["default"] == 0.65
    assert options["seed"]["default"] is None
    assert all(option["description"] for option in options.values())


def test_every_sample_is_a_small_picture_with_its_credit():
    samples = data(render())["samples"]
    assert len(samples) == 6
    for sample in samples:
        content = base64.b64decode(sample["base64"])
        assert content.startswith(b"\xff\xd8")
        assert b"Exif" not in content
        assert sample["author"]
        assert sample["licence"]
        assert sample["licence_url"].startswith("https://creativecommons.org/")
        assert sample["source"].startswith("https://")


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--<script>", "/*css*/ /*js*/ /*data*/", "\u2028 \ud800 é"]
)
def test_no_text_of_a_card_gets_out_of_its_element(text):
    page = render({"name": text, "limits": text})
    assert data(page)["card"] == {"name": text, "limits": text}
    assert page.html.lower().count("<script") == 2
    assert page.html.encode()
    assert page.headers == render().headers  # the same style and script


def test_a_score_that_is_no_number_leaves_json():
    assert data(render({"scores": [{"scores": {"CIDEr": float("nan")}}]}))["card"]["scores"] == [
        {"scores": {"CIDEr": None}}
    ]


def test_modules_are_joined_in_one_scope():
    joined = join_modules(
        {
            "a.js": "export const one = 1;\nexport async function two() {\n  return 2;\n}\nlet own = one;\n",
            "b.js": 'import { one, two } from "./a.js";\n\n/** Says an import is here. */\nexport class B {}\n',
        }
    )
    assert joined == (
        "const one = 1;\nasync function two() {\n  return 2;\n}\nlet own = one;\n\n"
        "/** Says an import is here. */\nclass B {}\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        'import "./a.js";',
        'import * as a from "./a.js";',
        'import one from "./a.js";',
        'import { one as two } from "./a.js";',
        "import { one } from './a.js';",
        'import { one } from "https://elsewhere/a.js";',
        'import { one } from "./a.js"; one();',
        "import {",
        '  import { one } from "./a.js";',
        "export default one;",
        "export { one };",
        'export * from "./a.js";',
        "export const { one } = two;",
        "const { one } = two;",
        "function* one() {}",
        "var one = 1;",
        'const one = await import("./a.js");',
        '  lazy = import("./a.js");',
        "  here = import.meta.url;",
    ],
)
def test_unknown_module_syntax_raises(line):
    with pytest.raises(ValueError, match=r"b\.js:2: "):
        join_modules({"a.js": "export const one = 1;", "b.js": f"// first\n{line}\n"})


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a.js": 'import { one } from "./b.js";', "b.js": "export const one = 1;"}, "a.js:1: no module before it"),
        ({"a.js": "const one = 1;", "b.js": 'import { one } from "./a.js";'}, "exports one"),
        ({"a.js": "const one = 1;", "b.js": "\nfunction one() {}"}, "b.js:2: one is declared in a.js:1"),
    ],
)
def test_modules_that_do_not_fit_together_raise(sources, message):
    with pytest.raises(ValueError, match=message):
        join_modules(sources)

"""The rendered demo page: one document whose policy allows its own style and script, and whose data stays data."""

import base64
import hashlib
import json
import re

import pytest

from handler.generation import GenerationConfig
from handler.serving.demo import DIRECTORY, MODULES, STYLES, concatenate_modules, render_page

MODEL = {"name": "captioner", "version": "1.0", "digest": "sha256:abc"}
DECLARATION = re.compile(r"^(?:export )?(?:(?:async )?function|class|const|let) (\w+)|^(?:const|let) ([\[{])", re.M)
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+\.js)";$', re.M)


def render(card=None, defaults=GenerationConfig(), max_bytes=1000):
    return render_page(MODEL, card or {}, defaults, max_bytes)


def element(html: str, opening: str) -> str:
    tag = opening.split()[0]
    [content] = re.findall(rf"<{re.escape(opening)}>(.*?)</{tag}>", html, re.DOTALL)
    return content


def data(page) -> dict:
    return json.loads(element(page.html, 'script type="application/json" id="page-data"'))


def sources() -> dict[str, str]:
    return {name: (DIRECTORY / name).read_text() for name in MODULES}


def test_policy_allows_only_the_style_and_script_of_the_page():
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


def test_headers_restrict_the_page_to_its_server():
    headers = render().headers
    del headers["Content-Security-Policy"]
    assert headers == {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(self)",
        "Cache-Control": "no-store",
    }


def test_page_is_self_contained():
    html = render().html
    assert not re.search(r"\$(css|js|data)\b", html)
    assert not re.search(r"""\s(src|href)="(?!data:)""", html.split("<script")[0])
    assert not re.search(r"\sstyle=|\son\w+=", html.split("<script")[0])  # the policy would block them
    assert "@import" not in html
    assert "url(" not in element(html, "style")
    assert len(html) < 310_000
    files = [path.name for path in DIRECTORY.iterdir() if path.suffix in (".css", ".js")]
    assert sorted([*STYLES, *MODULES]) == sorted(files)


def test_data_describes_the_options():
    found = data(render({"name": "a card"}, GenerationConfig(beam_size=3, length_penalty=0.65), max_bytes=1234))
    assert found["model"] == MODEL
    assert found["card"] == {"name": "a card"}
    assert found["max_bytes"] == 1234
    assert "image/jpeg" in found["formats"]
    options = {option["name"]: option for option in found["options"]}
    assert options["beam_size"] | {"help": ""} == {
        "name": "beam_size",
        "min": 1,
        "max": 10,
        "step": 1,
        "default": 3,
        "help": "",
    }
    assert options["length_penalty"]["default"] == 0.65
    assert options["temperature"]["min"] == 0
    assert options["seed"]["default"] is None
    assert options["no_repeat_words"].keys() == {"name", "default", "help"}  # a checkbox has no range
    assert options["no_repeat_words"]["default"] is False
    assert "attention" not in options
    assert all(option["help"] for option in options.values())


def test_samples_are_small_images_with_credits():
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
    "text", ["</script><script>alert(1)</script>", "<!--<script>", "$css $js ${data} $$", "\u2028 \ud800 é"]
)
def test_card_text_cannot_leave_its_element(text):
    page = render({"name": text, "limits": text})
    assert data(page)["card"] == {"name": text, "limits": text}
    assert page.html.lower().count("<script") == 2
    assert page.html.encode()
    assert page.headers == render().headers  # the same style and script


def test_score_nan_becomes_null():
    assert data(render({"scores": [{"scores": {"CIDEr": float("nan")}}]}))["card"]["scores"] == [
        {"scores": {"CIDEr": None}}
    ]


def test_concatenate_modules_removes_imports_and_exports():
    joined = concatenate_modules(
        [
            "export const one = 1;\nexport async function two() {\n  return 2;\n}\nlet own = one;\n",
            'import {\n  one,\n  two,\n} from "./a.js";\nimport { three } from "./b.js";\n\n'
            "/** An import {} in a comment. */\nexport class B {}\n",
        ]
    )
    assert joined == (
        "const one = 1;\nasync function two() {\n  return 2;\n}\nlet own = one;\n\n"
        "/** An import {} in a comment. */\nclass B {}\n"
    )


def test_no_module_syntax_remains_in_the_page():
    """Only the forms that `concatenate_modules` removes are used; the rest would be a syntax error in the browser."""
    script = element(render().html, 'script type="module"')
    assert not re.search(r"^\s*(import|export)\b|\bimport\s*[.(]", script, re.M)


def test_modules_import_only_what_earlier_modules_export():
    exports: dict[str, set[str]] = {}
    num_imports = 0
    for name, text in sources().items():
        for imported, source in IMPORT.findall(text):
            names = set(re.findall(r"\w+", imported))
            num_imports += len(names)
            assert names <= exports.get(source, set()), (name, source)
        exports[name] = set(re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", text, re.M))
    assert num_imports > 20


def test_modules_declare_different_names():
    names = [name for text in sources().values() for name, _ in DECLARATION.findall(text)]
    assert "" not in names  # no destructuring at the top level, which this test could not read
    assert len(names) > 50
    assert sorted(names) == sorted(set(names))

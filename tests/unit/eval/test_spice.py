"""SPICE wrapper. Its models are not installed in tests: a program stands in for Java."""

import sys

import pytest

from eval import spice
from eval.java import JavaError

REFERENCES = {7: ["a dog"], 3: ["a cat", "the cat"]}
CAPTIONS = {7: "a dog", 3: "a cat"}


def test_is_installed_without_models_is_false_and_downloads_nothing():
    assert not spice.is_installed()
    assert "downloads 385 MB" in spice.MISSING


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Installs a program in place of Java, which gets the arguments of SPICE."""

    def install(body: str) -> None:
        program = tmp_path / "java"
        program.write_text(f"#!{sys.executable}\nimport json, os, sys\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setattr(spice, "find_java", lambda: program)

    return install


# The scores are in another order than the images. SPICE writes null for an image without a parsed relation.
RESPOND = """
source, target = sys.argv[sys.argv.index("-jar") + 2], sys.argv[sys.argv.index("-out") + 1]
entries = json.load(open(source))
assert entries == [
    {"image_id": 7, "test": "a dog", "refs": ["a dog"]},
    {"image_id": 3, "test": "a cat", "refs": ["a cat", "the cat"]},
]
assert os.getcwd().endswith("spice") and "--add-opens=java.base/java.lang=ALL-UNNAMED" in sys.argv
scores = [{"image_id": i, "scores": {"All": {"f": f}}} for i, f in ((3, 0.2), (7, 0.6))]
json.dump(scores, open(target, "w"))
"""


def test_spice_scores_are_in_the_order_of_the_references(java, tmp_path, monkeypatch):
    java(RESPOND)
    temporary = tmp_path / "temporary files"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    score, scores = spice.spice_scores(REFERENCES, CAPTIONS)
    assert score == pytest.approx(0.4)
    assert scores == [0.6, 0.2]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sys.exit('Could not reserve enough space')", "ended with status 1: Could not reserve enough space"),
        ("", "The SPICE process failed: FileNotFoundError"),
        (RESPOND.replace("(7, 0.6)", "(8, 0.6)"), "The SPICE process failed: KeyError.7"),
    ],
)
def test_spice_scores_failed_process_raises(java, script, message):
    java(script)
    with pytest.raises(JavaError, match=message):
        spice.spice_scores(REFERENCES, CAPTIONS)

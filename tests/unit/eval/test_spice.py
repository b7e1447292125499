"""SPICE wrapper. Its models are not installed in tests: a fake returns what the class of pycocoevalcap returns."""

import os

from eval import spice

REFERENCES = {7: ["a dog"], 3: ["a cat", "the cat"]}
CAPTIONS = {7: "a dog", 3: "a cat"}


def test_is_installed_without_models_is_false_and_downloads_nothing():
    assert not spice.is_installed()
    assert "downloads 385 MB" in spice.MISSING


def test_spice_scores_are_in_the_order_of_the_references(monkeypatch):
    """pycocoevalcap returns rows sorted by id."""
    seen = {}

    class Fake:
        def compute_score(self, references, captions):
            seen.update(java=os.environ["JAVA_TOOL_OPTIONS"], captions=captions)
            return 0.4, [{"All": {"f": {3: 0.2, 7: 0.6}[image]}} for image in sorted(references)]

    monkeypatch.setattr(spice, "Spice", Fake)
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dx=y")
    assert spice.spice_scores(REFERENCES, CAPTIONS) == (0.4, [0.6, 0.2])
    assert seen["java"] == "-Dx=y --add-opens=java.base/java.lang=ALL-UNNAMED"
    assert seen["captions"] == {7: ["a dog"], 3: ["a cat"]}
    assert os.environ["JAVA_TOOL_OPTIONS"] == "-Dx=y"

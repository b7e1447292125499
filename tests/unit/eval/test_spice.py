"""SPICE's wrapper. Its models can't be had here: what stands in for pycocoevalcap's class gives back what that does."""

import os

from eval import spice

REFERENCES = {7: ["a dog"], 3: ["a cat", "the cat"]}
CAPTIONS = {7: "a dog", 3: "a cat"}


def test_without_its_models_it_is_said_to_be_missing_and_nothing_is_downloaded():
    assert not spice.installed()
    assert "downloads 385 MB" in spice.MISSING


def test_each_images_score_is_its_own(monkeypatch):
    """pycocoevalcap gives its rows in the order of the ids, not in that of the references."""
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

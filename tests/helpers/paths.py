"""Paths that tests use."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PHOTOS = sorted((ROOT / "samples" / "photos").glob("*.jpg"))
RUN_DIRECTORY = "CAPTIONER_TEST_RUN"  # environment variable: a directory that all processes of a test run share

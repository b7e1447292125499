"""Fixtures that all tests share."""

import os
from pathlib import Path

# Files run side by side: threads that wait for one another, spinning, would take the cores from them. Before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest

from handler.captioner import Captioner
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.fake_endpoint import FakeEndpoint
from tests.helpers.paths import ROOT

LONGEST = {
    "test_training",
    "test_distributed",
    "test_protocols",
    "test_pretrained",
    "test_docs",
    "test_demo",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin, so that none of them is left alone at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    """Flickr8k in COCO's layout, from CAPTIONER_DATA or beside the checkout."""
    path = Path(os.environ.get("CAPTIONER_DATA", ROOT.parent / "shared" / "data")) / "flickr8k"
    if not path.is_dir():
        missing = f"needs Flickr8k in COCO's layout at {path}; CAPTIONER_DATA names the folder that holds flickr8k/"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return path


@pytest.fixture(scope="session")
def pretrained() -> Captioner:
    """The shipped model."""
    return Captioner.load(ROOT / "pretrained")


@pytest.fixture
def tiny_bundle(tmp_path) -> Path:
    """A bundle to change and to break."""
    return write_tiny_bundle(tmp_path / "bundle")


@pytest.fixture
def serve():
    """Starts endpoints that answer with what a function makes of a request's number and its body."""
    running = []

    def start(answer) -> FakeEndpoint:
        running.append(FakeEndpoint(answer))
        return running[-1]

    yield start
    for server in running:
        server.close()

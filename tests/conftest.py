"""Markers, the order of files, and fixtures that all tests share."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Several processes run tests side by side: threads that spin while they wait would take the cores. Before torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest

from tests.helpers.paths import ROOT, RUN_DIRECTORY

if TYPE_CHECKING:
    from handler.captioner import Captioner

# Files that take longest, the longest first; a name includes those that go on with an underscore.
LONGEST = (
    "test_shipped_model",
    "test_docs",
    "test_protocols",
    "test_batch",
    "test_page",
    "test_distributed",
    "test_trainer",
    "test_serve",
    "test_demo",
    "test_benchmark",
    "test_report",
    "test_container",
    "test_backends",
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the directory that all processes of the run share."""
    if not hasattr(config, "workerinput"):
        os.environ[RUN_DIRECTORY] = tempfile.mkdtemp(prefix="captioner-tests-")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the servers that the processes of the run have shared, when all tests are done."""
    if hasattr(session.config, "workerinput"):
        return
    if Path(os.environ[RUN_DIRECTORY], "servers").exists():
        from tests.helpers.servers import stop_shared_servers

        stop_shared_servers()
    shutil.rmtree(os.environ[RUN_DIRECTORY], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark end-to-end tests, and start with the files that take longest, so that none is left alone at the end."""

    def position(item: pytest.Item) -> tuple[int, bool]:
        names = (i for i, name in enumerate(LONGEST) if f"{item.path.stem}_".startswith(f"{name}_"))
        rank = next(names, len(LONGEST))
        return rank, "e2e" not in item.path.parts

    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.e2e)
    items.sort(key=position)


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    """Flickr8k in COCO's layout, from CAPTIONER_DATA or beside the checkout."""
    path = Path(os.environ.get("CAPTIONER_DATA", ROOT.parent / "shared" / "data")) / "flickr8k"
    if not path.is_dir():
        missing = f"needs Flickr8k in COCO's layout at {path}; CAPTIONER_DATA names the directory that holds flickr8k/"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return path


@pytest.fixture(scope="session")
def pretrained() -> "Captioner":
    """The shipped model."""
    from handler.captioner import Captioner

    return Captioner.load(ROOT / "pretrained")


@pytest.fixture
def tiny_bundle(tmp_path) -> Path:
    """A bundle to change and to break."""
    from tests.helpers.bundles import write_tiny_bundle

    return write_tiny_bundle(tmp_path / "bundle")


@pytest.fixture
def serve() -> Iterator:
    """Starts endpoints whose responses a function makes from the number and the body of a request."""
    from tests.helpers.fake_endpoint import FakeEndpoint

    running: list[FakeEndpoint] = []

    def start(respond) -> FakeEndpoint:
        running.append(FakeEndpoint(respond))
        return running[-1]

    yield start
    for endpoint in running:
        endpoint.close()


@pytest.fixture(scope="session")
def shared_meteor() -> Iterator:
    """Let all code of this process use the same METEOR."""
    from tests.helpers.trainings import SharedMeteor

    with pytest.MonkeyPatch.context() as patch:
        for module in ("eval.metrics", "training.trainer"):
            patch.setattr(f"{module}.Meteor", SharedMeteor)
        yield SharedMeteor()

"""A tiny model and an endpoint of it."""

import pytest

from handler.captioner import Captioner
from handler.serving.endpoint import Endpoint
from handler.serving.settings import Settings
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.raw_requests import MODEL


@pytest.fixture(scope="session")
def captioner(tmp_path_factory):
    return Captioner.load(write_tiny_bundle(tmp_path_factory.mktemp("model")))


@pytest.fixture
def endpoint(captioner):
    return Endpoint(captioner, MODEL, Settings(max_pixels=1_000_000))

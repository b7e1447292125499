"""Real TorchServes with the archive of the project, on private ports."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from playwright.sync_api import sync_playwright

from deploy.torchserve import TorchServe
from eval.grpc_stubs import inference_protos
from handler.captioner import Captioner
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.demo_page import FAKE_CAMERA, LAPTOP, RECORD_REQUESTS
from tests.helpers.paths import ROOT
from tests.helpers.sandbox import Sandbox, sandbox
from tests.helpers.servers import packed, running_server, shared_server


@pytest.fixture(scope="session")
def server() -> TorchServe:
    """The shipped model with the shipped settings; one server for all processes of a test run."""
    return shared_server("shipped", ROOT / "pretrained")


@pytest.fixture(scope="session")
def served(server, tmp_path_factory) -> Captioner:
    """The model that the worker of `server` runs, in this process."""
    with zipfile.ZipFile(server.archive) as archive:
        archive.extractall(directory := tmp_path_factory.mktemp("archive"))
    return Captioner.load(directory / "model", backend="auto", precision="fast")


@pytest.fixture(scope="module")
def server_with_streaming(tmp_path_factory) -> Iterator[TorchServe]:
    """A tiny model whose server accepts `stream` over gRPC, caches results, and logs captions."""
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    directory = tmp_path_factory.mktemp("streaming")
    with running_server(directory, bundle, grpc_streaming=True, cache_entries=8, log_captions=True) as server:
        yield server


@pytest.fixture(scope="session")
def endpoint(server) -> str:
    return f"{server.inference}/predictions/captioner"


@pytest.fixture(scope="session")
def grpc_client(server):
    """Calls `Predictions` or another method with a map of bytes."""
    messages, services = inference_protos()
    with grpc.insecure_channel(server.grpc) as channel:
        stub = services.InferenceAPIsServiceStub(channel)

        def call(method: str, **fields: bytes):
            return getattr(stub, method)(messages.PredictionsRequest(model_name="captioner", input=fields), timeout=60)

        yield call


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A model store with the archive of a tiny bundle."""
    directory = tmp_path_factory.mktemp("store")
    packed(write_tiny_bundle(directory / "bundle"), directory / "model_store")
    return directory / "model_store"


@pytest.fixture(scope="module")
def container(tmp_path_factory, store) -> Iterator[Sandbox]:
    """The entry point of the container image in a sandbox, ready."""
    with sandbox(tmp_path_factory.mktemp("container"), store) as container:
        yield container


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, with a fake camera."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        missing = "needs Debian's chromium on PATH"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *FAKE_CAMERA])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, endpoint):
    """Open the demo page. Errors, requests to other hosts and policy violations fail the test.

    The browser logs every response with an error status; `failing=True` permits these.
    """
    contexts, errors, urls = [], [], []

    def open_page(settings=LAPTOP, url=endpoint, failing=False, **more):
        context = browser.new_context(**({"reduced_motion": "reduce"} | settings | more))
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.add_init_script(RECORD_REQUESTS)
        page = context.new_page()

        def on_console(message):
            if message.type == "error" and not (failing and message.text.startswith("Failed to load resource")):
                errors.append(message.text)

        page.on("console", on_console)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: urls.append(request.url))
        page.goto(url)
        return page

    yield open_page
    origin = endpoint.split("/predictions")[0]
    assert [url for url in urls if not url.startswith((f"{origin}/", "data:", f"blob:{origin}/"))] == []
    assert errors == []
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.refused ?? []") == []
        context.close()

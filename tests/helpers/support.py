"""What tests use besides fixtures: places, a bundle small enough to make in a second, a server of one's own."""

import io
import json
import os
import re
import runpy
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from deploy.archive import build_archive
from deploy.benchmark.variants import Variant, repack
from deploy.testing import isolated_server
from deploy.torchserve import TorchServe
from handler.bundle import BundleConfig, save_bundle
from handler.generation.beam_search import GenerationConfig
from handler.modeling import DecoderConfig, build_decoder
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import build_vocabulary
from handler.preprocessing import Preprocessing

ROOT = Path(__file__).parent.parent.parent
PHOTOS = sorted((ROOT / "samples" / "photos").glob("*.jpg"))
WORDS = ["a dog runs through the green grass", "a man's red hat", "two children play in the snow near a house"]


def write_tiny_bundle(folder: Path, decoder: str = "soft_attention", seed: int = 0) -> Path:
    """A bundle of timm's test-sized encoder and an untrained decoder."""
    torch.manual_seed(seed)
    vocabulary = build_vocabulary(WORDS, min_count=1)
    encoder = Encoder("test_efficientnet")
    config = DecoderConfig(decoder, embed_size=16, hidden_size=16, attention_size=8)
    built = build_decoder(config, len(vocabulary), encoder.channels)
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    weights |= {f"decoder.{name}": 3 * tensor for name, tensor in built.state_dict().items()}
    preprocessing = Preprocessing(64, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
    bundle = BundleConfig("test_efficientnet", preprocessing, config, GenerationConfig(beam_size=3, max_length=8))
    save_bundle(folder, bundle, weights, vocabulary)
    return folder


def installed(program: str, package: str) -> str:
    """The path of a program that Debian has in a package; without it a test is skipped, but in CI it fails."""
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        missing = f"needs {program}: apt-get install {package}"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return path


def run_module_in_process(module: str, *arguments: object) -> tuple[int, str, str]:
    """What `python -m module` ends with, prints and complains of, in this process, which has imported PyTorch already.

    It is for commands that say no: in a process of its own each would take ten seconds to import what it does not use.
    A traceback is raised.
    """
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors), warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("ignore", RuntimeWarning)  # that the module is imported already
        patch.setattr(sys, "argv", [module, *map(str, arguments)])
        patch.chdir(ROOT)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code or 0
    if isinstance(code, str):  # as Python itself does it
        code = bool(errors.write(f"{code}\n"))
    return int(code), out.getvalue(), errors.getvalue()


def blocks(page: str, heading: str | None = None) -> list[tuple[str, str]]:
    """A page's code blocks with their language; those below a heading where one is named."""
    text = (ROOT / page).read_text()
    if heading:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def at(server: TorchServe, text: str) -> str:
    """A text with the server's addresses in place of the documented ones."""
    known = {
        "http://127.0.0.1:8080": server.inference,
        "http://127.0.0.1:8081": server.management,
        "http://127.0.0.1:8082": server.metrics,
    }
    for address, its in known.items():
        text = text.replace(address, its)
    return text


def eventually(true: Callable[[], object], seconds: float = 60, pause: float = 0.02) -> None:
    """Waits until something is true; fails where it is not after so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(pause)


@contextmanager
def running_server(
    folder: Path,
    bundle: Path,
    properties: dict[str, str] | None = None,
    entry: Path | None = None,
    logs: Path | None = None,
    **settings,
) -> Iterator[TorchServe]:
    """A server with a bundle's archive.

    Changed are TorchServe's properties, the archive's entry, where the logs are, and the handler's settings.
    """
    archive = build_archive(bundle, folder / "model_store")
    changed = {f"handler.{name}": value for name, value in settings.items()}
    repack(archive, archive, Variant("changed", changed, entry))
    server = isolated_server(folder, folder / "model_store", **(properties or {}))
    server.logs = logs or server.logs
    try:
        server.start()
        yield server
    finally:
        server.stop()


def write_split(root: Path, count: int) -> Path:
    """The split `many`: so many pictures in COCO's layout, cut from the samples."""
    (root / "many").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for number in range(count):
        with Image.open(PHOTOS[number % len(PHOTOS)]) as photo:
            side = min(photo.size) // 2
            left = (photo.width - side) * number // count
            photo.convert("RGB").crop((left, 0, left + side, side)).save(root / "many" / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg"})
        annotations.append({"id": number, "image_id": number, "caption": f"a dog runs through the grass {number}"})
    content = {"images": images, "annotations": annotations}
    (root / "annotations" / "captions_many.json").write_text(json.dumps(content))
    return root


def eval_command(server: TorchServe, split: Path, results: Path, name: str) -> list[str]:
    """Captions the split `many` through a server; METEOR's start would take longer than all the rest."""
    arguments = [split, "many", "--endpoint", server.inference, "--results", results, "--run", name, "--concurrency", 4]
    return [sys.executable, "-m", "eval.run", *map(str, arguments), "--retries", "12", "--no-meteor"]


class FakeEndpoint:
    """Answers with what a function makes of the number of the request and its body."""

    def __init__(self, answer):
        self.seen: list[tuple[str, dict, bytes]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fake.seen.append((self.path, dict(self.headers), body))
                code, kind, content = answer(len(fake.seen), body)
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


PHOTO_SPLITS = ["--train_splits=[photos]", "--val_splits=[photos]"]


def train_command(run: Path, *settings: str) -> list[str]:
    """Trains a small model on the samples; what it keeps of the encoder lies beside the run."""
    small = [
        *PHOTO_SPLITS, "--min_count=1", "--batch_size=2", "--preprocessing.size=64", "--serving_size=96",
        "--cached_views=2",
        "--decoder.embed_size=32", "--decoder.hidden_size=32", "--decoder.attention_size=8", "--label_smoothing=0",
        "--checkpoint_every=3", "--decoding.beam_size=2", "--precision=32-true", "--accelerator=cpu",
    ]  # fmt: skip
    folders = [f"--into={run}", f"--features={run.parent / 'features'}"]
    preset = ["soft_attention-lite2-flickr8k", "samples"]
    return [sys.executable, "-m", "training.train", *preset, *folders, *small, *settings]


def metrics_of(run: Path) -> list[dict]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

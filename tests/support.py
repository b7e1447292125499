"""What tests use besides fixtures: places, a bundle small enough to make in a second, a server of one's own."""

import json
import os
import random
import shutil
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

from deploy.server import Server
from handler.bundle import BundleConfig, save_bundle
from handler.decoders import DecoderConfig, build_decoder
from handler.encoder import Encoder
from handler.preprocessing import Preprocessing
from handler.search import SearchOptions
from training.archive import build_archive
from training.data.tokenizer import build_vocabulary

ROOT = Path(__file__).parent.parent
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
    bundle = BundleConfig("test_efficientnet", preprocessing, config, SearchOptions(beam_size=3, max_length=8))
    save_bundle(folder, bundle, weights, vocabulary)
    return folder


def installed(program: str, package: str) -> str:
    """The path of a program that Debian has in a package; without it a test is skipped, but in CI it fails."""
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        missing = f"needs {program}: apt-get install {package}"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return path


def eventually(true: Callable[[], object], seconds: float = 60, pause: float = 0.02) -> None:
    """Waits until something is true; fails where it is not after so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(pause)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the system hands out to clients."""
    free = []
    while len(free) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if port not in free and probe.connect_ex(("127.0.0.1", port)) != 0:
                free.append(port)
    return free


def private_server(
    folder: Path, store: Path, root: Path = ROOT, template: Path = ROOT / "config.properties", **properties: str
) -> Server:
    """A configuration of the project's with private ports, logs and archive, and what else of it is changed."""
    inference, management, metrics, grpc_inference, grpc_management = free_ports(5)
    changed = {
        "inference_address": f"http://127.0.0.1:{inference}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "grpc_inference_port": grpc_inference,
        "grpc_management_port": grpc_management,
        "model_store": store,
    } | properties
    kept = [line for line in template.read_text().splitlines() if line.split("=", 1)[0] not in changed]
    config = folder / "config.properties"
    config.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in changed.items())]) + "\n")
    return Server(config, root, folder / "logs")


def change_settings(archive: Path, **handler) -> None:
    """Sets values below `handler` in the model-config.yaml of an archive."""
    changed = archive.with_suffix(".changed")
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "model-config.yaml":
                settings = yaml.safe_load(content)
                settings["handler"] |= handler
                content = yaml.safe_dump(settings).encode()
            target.writestr(name, content)
    os.replace(changed, archive)


@contextmanager
def running(folder: Path, bundle: Path, **settings) -> Iterator[Server]:
    """A server with a bundle's archive, the handler's settings changed."""
    archive = build_archive(bundle, folder / "model_store")
    if settings:
        change_settings(archive, **settings)
    server = private_server(folder, folder / "model_store")
    try:
        server.start()
        yield server
    finally:
        server.stop()


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
        *PHOTO_SPLITS, "--min_count=1", "--batch_size=2", "--preprocessing.size=64", "--cached_views=2",
        "--decoder.embed_size=32", "--decoder.hidden_size=32", "--decoder.attention_size=8", "--label_smoothing=0",
        "--checkpoint_every=3", "--decoding.beam_size=2", "--precision=32-true", "--accelerator=cpu",
    ]  # fmt: skip
    folders = [f"--into={run}", f"--features={run.parent / 'features'}"]
    preset = ["soft_attention-lite2-flickr8k", "samples"]
    return [sys.executable, "-m", "training.train", *preset, *folders, *small, *settings]


def metrics_of(run: Path) -> list[dict]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

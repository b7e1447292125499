"""A server and an evaluation run with too little room: in the queue, on the disk, in memory."""

import base64
import json
import os
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import psutil
import pytest
import requests
from PIL import Image

import handler.captioner_service as service
from eval.client import Client
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.eval_runs import eval_command, write_split
from tests.helpers.fault_injection import IMAGES, RECOVERY_TIMEOUT, answers, report, under_load, worker
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.polling import eventually
from tests.helpers.servers import running_server

MB = 2**20
COUNT = 60
ENTRY = Path(service.__file__)
APPETITE = 40 * MB  # bytes that the encoder of the cramped server allocates for each image
HUNGRY = f"""

def _eat(self, pixels, encode=Captioner.encode):
    torch.empty(len(pixels) * {APPETITE}, dtype=torch.uint8)
    return encode(self, pixels)


Captioner.encode = _eat
"""


@contextmanager
def small_disk(directory: Path, megabytes: int):
    """Mount a disk of some megabytes at a directory."""
    lacking = pytest.fail if os.environ.get("CI") else pytest.skip
    if os.getuid() != 0:
        lacking("needs root, to mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", directory]
    if (done := subprocess.run(mount, capture_output=True, text=True)).returncode:
        lacking(f"can't mount a small disk: {done.stderr}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture(scope="module")
def cramped(tmp_path_factory):
    """A server with a queue of four requests and 16 MB for logs, whose encoder allocates 40 MB for each image."""
    directory = tmp_path_factory.mktemp("cramped")
    entry = directory / "entry.py"
    entry.write_text(ENTRY.read_text() + HUNGRY)
    bundle = write_tiny_bundle(directory / "bundle")
    with (
        small_disk(tmp_path_factory.mktemp("disk"), 16) as disk,
        running_server(
            directory, bundle, {"job_queue_size": "4"}, entry=entry, logs=disk / "logs", threads=1
        ) as server,
    ):
        yield server


@contextmanager
def filled(disk: Path, left: int = 0):
    """Fill a disk but for `left` bytes, and free it again."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        free = os.statvfs(disk)
        file.write(bytes(max(0, free.f_bavail * free.f_frsize - left)))
    try:
        yield
    finally:
        ballast.unlink()


# The queue


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_full_queue_refuses_clients_until_they_succeed_later(cramped, protocol):
    """A refused client retries after a pause until it gets a caption."""
    with under_load(cramped, f"a full queue, {protocol}", clients=16, protocol=protocol) as traffic:
        traffic.wait(requests=40)
    assert set(traffic.errors) == {"Busy 503"}


# The disk


def test_full_disk_for_logs_stops_logging_alone(cramped):
    """The server goes on without a log, and logs again when there is room."""
    log = cramped.logs / "model_log.log"
    with under_load(cramped, "the disk for logs full") as traffic:
        with filled(cramped.logs):
            size = log.stat().st_size
            traffic.wait(requests=40)
            assert log.stat().st_size < size + 4096  # a page that was not full
            assert answers(cramped)
            assert cramped.ready()
        traffic.wait(requests=20)
    assert log.stat().st_size > size + 4096


@pytest.fixture
def disk(tmp_path_factory):
    with small_disk(tmp_path_factory.mktemp("results"), 1) as disk:
        yield disk


def test_full_disk_for_results_ends_a_run_that_resumes(cramped, tmp_path, disk):
    split = write_split(tmp_path / "data", COUNT)
    with Client(cramped.inference) as client:
        images = (tmp_path / "data" / "many").glob("*.jpg")
        expected = {int(path.stem): client.caption(path.read_bytes())["caption"] for path in images}
    command, log = eval_command(cramped, split, disk, "run"), disk / "run" / "requests.jsonl"
    with filled(disk, left=4096):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    sentence = f"Cannot write to {disk / 'run'} (No space left on device): free some space. "
    assert done.stderr.splitlines()[-1] == sentence + "Run the same command again to resume."
    assert "Traceback" not in done.stderr
    before, start = log.read_text().count('"caption"'), time.perf_counter()
    assert 0 < before < COUNT
    again = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    eventually(lambda: log.read_text().count('"caption"') > before, RECOVERY_TIMEOUT)
    seconds = time.perf_counter() - start
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    captions = json.loads((disk / "run" / "captions.json").read_text())
    asked = Counter(json.loads(line).get("image_id") for line in log.read_text().splitlines())
    assert all(
        asked[image] == 1 for image in expected
    )  # images written before the disk was full are not requested again
    wrong = sum(one["caption"] != expected[one["image_id"]] for one in captions)
    report("the disk for results full", COUNT, COUNT - len(captions), wrong, seconds)


# Memory


@pytest.fixture(params=[150])
def hungry(cramped, request):
    """The server, while its worker can allocate only some more megabytes."""
    several(cramped, list(IMAGES.values()) * 2)  # memory that it allocates once, it keeps
    process = worker(cramped)
    before = process.rlimit(psutil.RLIMIT_AS)
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + request.param * MB, before[1]))
    yield cramped
    process.rlimit(psutil.RLIMIT_AS, before)


def several(server, images) -> list[dict]:
    encoded = [base64.b64encode(image).decode() for image in images]
    response = requests.post(
        f"{server.inference}/predictions/captioner", json={"images": encoded}, timeout=RECOVERY_TIMEOUT
    )
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def test_batch_beyond_the_memory_is_split(hungry):
    """PyTorch itself finds no memory for all the images together."""
    images = list(IMAGES.values())
    with Client(hungry.inference) as client:
        alone = [client.caption(image)["caption"] for image in images]
    start = time.perf_counter()
    together = several(hungry, images * 2)
    wrong = sum(one.get("caption") != expected for one, expected in zip(together, alone * 2, strict=True))
    lost, seconds = sum("code" in one for one in together), time.perf_counter() - start
    report("a batch beyond the memory", len(together), lost, wrong, seconds)
    log = (hungry.logs / "model_log.log").read_text()
    assert "DefaultCPUAllocator: can't allocate memory" in log
    assert f"{len(together)} images could not be captioned together." in log


@pytest.mark.parametrize("hungry", [90], indirect=True)  # the image takes 147
def test_image_beyond_the_memory_is_refused_alone(hungry):
    """The image is refused; its neighbours and the other clients of the same batches get their captions."""
    stream = BytesIO()
    Image.new("RGB", (7000, 7000)).save(stream, "PNG", compress_level=1)
    before = worker(hungry).pid
    with under_load(hungry, "an image beyond the memory", clients=2) as traffic:  # few enough for the queue
        found = several(hungry, [PHOTOS[0].read_bytes(), stream.getvalue(), PHOTOS[1].read_bytes()])
        assert [one.get("type", "caption") for one in found] == ["caption", "OutOfMemory", "caption"]
        alone = requests.post(
            f"{hungry.inference}/predictions/captioner", data=stream.getvalue(), timeout=RECOVERY_TIMEOUT
        )
        assert (alone.status_code, alone.json()["type"], alone.json()["code"]) == (507, "OutOfMemory", 507)
        traffic.wait(requests=20)
    assert traffic.errors == {}
    assert worker(hungry).pid == before

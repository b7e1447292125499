"""A batch job on a real local Ray: killed, interrupted, and resumed to its end."""

import io
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from handler import Captioner, GenerationConfig
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.polling import eventually

pytestmark = pytest.mark.slow
COUNT, GROUP = 480, 30
SLOW = {"beam_size": 10, "min_length": 50, "max_length": 50}
ERRORS = {0: "InvalidImage", 3: "EmptyBody"} | dict.fromkeys(range(GROUP, 2 * GROUP), "InvalidParquet")


def write_images(path: Path) -> list[bytes]:
    """Write a Parquet file with two broken images and a row group whose page of images is damaged."""
    photos = []
    for photo in PHOTOS[:2]:
        file = io.BytesIO()
        Image.open(photo).resize((320, 240)).save(file, "JPEG")
        photos.append(file.getvalue())
    images = photos * (COUNT // 2)
    images[0], images[3] = b"not an image", b""
    table = pa.table({"id": [f"id {row}" for row in range(COUNT)], "image": images})
    pq.write_table(table, path, row_group_size=GROUP, use_dictionary=False, compression="zstd")
    with path.open("r+b") as file:
        file.seek(pq.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset)
        file.write(b"\xff" * 1000)
    return images


class Job:
    """The command in a session of its own, by which its processes are found."""

    def __init__(self, log: Path, *arguments: object):
        self.log, command = log, [sys.executable, "-m", "deploy.batch", *map(str, arguments)]
        with log.open("w") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)

    def output(self) -> str:
        return self.log.read_text()

    def processes(self) -> list[psutil.Process]:
        """Return its running processes, Ray's among them."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.Error):
                continue
        return found

    def is_captioning(self) -> bool:
        """Return True if a worker of this job is running; those of the job before are dead then."""
        for process in self.processes():
            with suppress(psutil.Error):
                if "CaptionPixels" in " ".join(process.cmdline()):
                    return True
        return False

    def listen_addresses(self) -> set[str]:
        """Return the addresses that its processes listen on."""
        addresses = set()
        for process in self.processes():
            with suppress(psutil.Error):  # it has ended
                addresses |= {one.laddr.ip for one in process.net_connections() if one.status == "LISTEN"}
        return {address.removeprefix("::ffff:") for address in addresses}

    def temporary_directories(self) -> list[Path]:
        """Return its directories among the temporary files."""
        commands = ""
        for process in self.processes():
            with suppress(psutil.Error):
                commands += " ".join(process.cmdline())
        return [path for path in Path(tempfile.gettempdir()).glob("captioner-*-*") if f"{path}/" in commands]


@pytest.fixture
def start_job(tmp_path):
    """Starts jobs; none is left running."""
    started = []

    def start(*arguments: object) -> Job:
        started.append(Job(tmp_path / f"job-{len(started)}.log", *arguments))
        return started[-1]

    yield start
    for job in started:
        for process in job.processes():
            process.kill()


def complete_files(directory: Path) -> dict[Path, bytes]:
    """Return the content of each complete Parquet file."""
    contents = {path: path.read_bytes() for path in directory.glob("*.parquet")}
    return {path: content for path, content in contents.items() if len(content) > 4 and content[-4:] == b"PAR1"}


def num_written(directory: Path) -> int:
    return sum(pq.read_metadata(io.BytesIO(content)).num_rows for content in complete_files(directory).values())


def test_job_killed_and_interrupted_resumes_to_its_end(start_job, tmp_path):
    bundle, source, output = write_tiny_bundle(tmp_path / "bundle"), tmp_path / "data.parquet", tmp_path / "captions"
    images = write_images(source)
    arguments = [source, output, "--model", bundle, "--image-column", "image", "--keep", "id"]
    arguments += ["--batch-size", 1, "--rows-per-file", GROUP]  # one by one is slow enough to be interrupted
    arguments += ["--options", *(f"{name}={value}" for name, value in SLOW.items())]

    killed, addresses, modes = start_job(*arguments, "--workers", 2), set(), set()

    def has_written() -> bool:
        addresses.update(killed.listen_addresses())
        modes.update(path.stat().st_mode & 0o777 for path in killed.temporary_directories())
        return num_written(output) > 0 or killed.process.poll() is not None

    eventually(has_written, 300, pause=0.3)
    killed.process.kill()
    kept = complete_files(output)
    assert 0 < num_written(output) < COUNT, killed.output()
    assert (addresses, modes) == ({"127.0.0.1"}, {0o700})

    # At once, while workers of the killed job may still write; one worker, so that it is not done too early.
    interrupted = start_job(*arguments, "--workers", 1)
    eventually(lambda: interrupted.is_captioning() or interrupted.process.poll() is not None, 300, pause=0.3)
    before = complete_files(output).keys()
    eventually(lambda: complete_files(output).keys() - before or interrupted.process.poll() is not None, 300)
    interrupted.process.send_signal(signal.SIGINT)
    assert interrupted.process.wait(60) == 130, interrupted.output()
    assert "the same command resumes the job" in interrupted.output()
    written = num_written(output)
    assert written < COUNT, "the job was too fast to be interrupted"

    last = start_job(*arguments, "--workers", 2)
    assert last.process.wait(300) == 0, last.output()
    assert f"{COUNT} images, {written} of them written before." in last.output()
    assert f"{COUNT - len(ERRORS)} have a caption, others an error: {GROUP} InvalidParquet, 1 " in last.output()
    eventually(lambda: not [*killed.processes(), *interrupted.processes(), *last.processes()], pause=0.3)
    assert kept.items() <= complete_files(output).items()

    rows = pq.read_table(output).to_pylist()
    assert sorted(row["image"] for row in rows) == sorted(f"data.parquet#{number}" for number in range(COUNT))
    captioner = Captioner.load(bundle, backend="auto")
    expected = [captions[0] for captions in captioner.caption([images[2], images[1]], GenerationConfig(**SLOW))]
    for row in rows:
        number = int(row["image"].partition("#")[2])
        error = ERRORS.get(number)
        assert row["id"] == f"id {number}"
        assert row["model"] == captioner.config.digest
        assert row["error_type"] == error
        assert bool(row["error_message"]) == bool(error)
        assert row["caption"] == (None if error else expected[number % 2].text)
        assert error or row["score"] == pytest.approx(expected[number % 2].score, abs=1e-3)

"""Bulk captioning with a real Ray and two workers: killed, stopped, and brought to its end."""

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

COUNT, GROUP = 3000, 75
SLOW = ["beam_size=10", "min_length=40", "max_length=40"]  # leaves time to stop a job
UNREADABLE = {0: "InvalidImage", 3: "EmptyBody"} | dict.fromkeys(range(GROUP, 2 * GROUP), "InvalidParquet")


def write_pictures(path: Path) -> list[bytes]:
    """A Parquet file of pictures, two of them broken, with a row group whose pictures' page is damaged."""
    photos = []
    for photo in PHOTOS[:2]:
        file = io.BytesIO()
        Image.open(photo).resize((320, 240)).save(file, "JPEG")
        photos.append(file.getvalue())
    pictures = photos * (COUNT // 2)
    pictures[0], pictures[3] = b"no picture", b""
    table = pa.table({"id": [f"id {row}" for row in range(COUNT)], "image": pictures})
    pq.write_table(table, path, row_group_size=GROUP, use_dictionary=False, compression="zstd")
    with path.open("r+b") as file:
        file.seek(pq.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset)
        file.write(b"\xff" * 1000)
    return pictures


class Job:
    """The command, in a session of its own, by which its processes are found."""

    def __init__(self, log: Path, *arguments: object):
        self.log, command = log, [sys.executable, "-m", "deploy.batch", *map(str, arguments)]
        with log.open("w") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)

    def said(self) -> str:
        return self.log.read_text()

    def living(self) -> list[psutil.Process]:
        """Its processes, Ray's among them."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.Error):
                continue
        return found


@pytest.fixture
def job(tmp_path):
    """Starts jobs; none is left running."""
    started = []

    def start(*arguments: object) -> Job:
        started.append(Job(tmp_path / f"job-{len(started)}.log", *arguments))
        return started[-1]

    yield start
    for one in started:
        for process in one.living():
            process.kill()


def test_job_killed_and_interrupted_resumes_to_its_end(job, tmp_path):
    bundle, source, folder = write_tiny_bundle(tmp_path / "bundle"), tmp_path / "data.parquet", tmp_path / "captions"
    pictures = write_pictures(source)
    arguments = [source, folder, "--model", bundle, "--image-column", "image", "--keep", "id"]
    arguments += ["--workers", 2, "--batch-size", 4, "--rows-per-file", GROUP, "--options", *SLOW]

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.glob("*.parquet")}

    def written() -> int:
        return sum(
            pq.ParquetFile(path).metadata.num_rows for path, content in files().items() if content[-4:] == b"PAR1"
        )

    killed, addresses, modes = job(*arguments), set(), set()

    def begun() -> bool:
        addresses.update(listened(killed))
        modes.update(path.stat().st_mode & 0o777 for path in folders(killed))
        return written() > 0 or killed.process.poll() is not None

    eventually(begun, 300, pause=0.3)
    killed.process.kill()
    kept, before = files(), written()
    assert before > 0, killed.said()
    assert before < COUNT, "it was too fast to be stopped"
    assert (addresses, modes) == ({"127.0.0.1"}, {0o700})

    stopped = job(*arguments)  # at once: the killed one's workers still write
    eventually(lambda: "written before" in stopped.said(), 120)
    eventually(lambda: len(files()) > len(kept) + 2, 300)
    stopped.process.send_signal(signal.SIGINT)
    assert stopped.process.wait(60) == 130
    assert "The same command goes on from there." in stopped.said()
    before = written()
    assert before < COUNT, "it was too fast to be stopped"

    last = job(*arguments)
    assert last.process.wait(300) == 0, last.said()
    assert f"{COUNT} pictures, {before} of them written before." in last.said()
    assert f"{COUNT - len(UNREADABLE)} have a caption, others an error: {GROUP} InvalidParquet, 1 " in last.said()
    eventually(lambda: not [*killed.living(), *stopped.living(), *last.living()], pause=0.3)
    whole = {path: content for path, content in kept.items() if content[-4:] == b"PAR1"}
    assert {path: content for path, content in files().items() if path in whole} == whole

    rows = pq.read_table(folder).to_pylist()
    assert sorted(row["picture"] for row in rows) == sorted(f"data.parquet#{number}" for number in range(COUNT))
    captioner = Captioner.load(bundle, backend="auto")
    ours = [
        captions[0]
        for captions in captioner.caption(
            [pictures[2], pictures[1]], GenerationConfig(beam_size=10, min_length=40, max_length=40)
        )
    ]
    for row in rows:
        number = int(row["picture"].partition("#")[2])
        error = UNREADABLE.get(number)
        assert row["id"] == f"id {number}"
        assert row["model"] == captioner.config.digest
        assert row["error_type"] == error
        assert bool(row["error_message"]) == bool(error)
        assert row["caption"] == (None if error else ours[number % 2].text)
        assert error or row["score"] == pytest.approx(ours[number % 2].score, abs=1e-3)


def listened(job: Job) -> set[str]:
    """The addresses that its processes listen at."""
    found = set()
    for process in job.living():
        with suppress(psutil.Error):  # it has ended
            found |= {one.laddr.ip for one in process.net_connections() if one.status == "LISTEN"}
    return {ip.removeprefix("::ffff:") for ip in found}


def folders(job: Job) -> list[Path]:
    """Its folders among the temporary files."""
    commands = ""
    for process in job.living():
        with suppress(psutil.Error):
            commands += " ".join(process.cmdline())
    return [path for path in Path(tempfile.gettempdir()).glob("captioner-*-*") if f"{path}/" in commands]

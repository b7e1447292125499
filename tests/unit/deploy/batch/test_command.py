"""The command line of a batch job: what cannot be done is refused in one sentence."""

import contextlib
import itertools
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.batch import __main__ as command
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/none", "{}/out"], "is not a directory"),
        (["{}/empty", "{}/out"], "No image found in .*empty. File names have to end in .*.jpg"),
        (["{}/empty", "{}/out", "--image-column", "image"], "No readable Parquet file found"),
        (["{}/data.parquet", "{}/out"], "is not a directory. For Parquet files, name the column .*: --image-column"),
        (["{}/data.parquet", "{}/out", "--image-column", "picture"], "No column 'picture' at .*: image, id"),
        (["{}/data.parquet", "{}/out", "--image-column", "image", "--keep", "size"], "No column 'size'"),
        (["{}/data.parquet", "{}/out", "--image-column", "image", "--keep", "caption"], "'caption' cannot be kept"),
        (["{}/images", "{}/out", "--keep", "id"], "--keep is for Parquet files"),
        (["{}/images", "{}/out", "--options", "beam_size"], "written as name=value, not 'beam_size'"),
        (["{}/images", "{}/out", "--options", "beam_size=11"], "beam_size must be an integer from 1 to 10"),
        (["{}/images", "{}/out", "--options", "attention=true"], "attention is not written"),
        (["{}/images", "{}/data.parquet/out"], "cannot be written"),
        (["{}/images", "{}/images"], "holds other files"),
        (["{}/images", "{}/out", "--address", "127.0.0.1:1"], "Ray does not answer: .*refused"),
        (["nothing://bucket/images", "{}/out"], "cannot be read"),
    ],
)
def test_batch_command_with_invalid_arguments_exits_with_one_sentence(
    tmp_path, monkeypatch, bundle, arguments, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(PHOTOS[0].read_bytes())
    pq.write_table(pa.table({"image": [PHOTOS[0].read_bytes()], "id": [1]}), tmp_path / "data.parquet")
    places = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["batch", *places, "--model", str(bundle)])
    with pytest.raises(SystemExit, match=message) as stopped:
        command.main()
    assert "\n" not in str(stopped.value)


def test_batch_command_interrupted_exits_with_130_and_says_how_to_resume(tmp_path, monkeypatch, bundle, capsys):
    @contextlib.contextmanager
    def interrupted(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(command, "ray_session", interrupted)
    monkeypatch.setattr(sys, "argv", ["batch", str(PHOTOS[0].parent), str(tmp_path / "out"), "--model", str(bundle)])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "Stopped. Written results stay; the same command resumes the job.\n"


def test_log_progress_prints_a_line_at_intervals_and_at_the_end(monkeypatch, capsys):
    monkeypatch.setattr(command, "PROGRESS_SECONDS", 0.01)
    counts = itertools.chain([10, 20, 30], itertools.repeat(40))
    results = SimpleNamespace(outcomes=lambda: Counter({None: next(counts)}))
    with command.log_progress(results, 100):
        time.sleep(0.1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("20 of 100 written after 0 s, ")
    assert lines[-1].startswith("40 of 100 written after 0 s, ")
    assert len(lines) > 2

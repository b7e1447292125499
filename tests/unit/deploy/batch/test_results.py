"""The output directory of a batch job: what counts as done, repairs, settings and the lock."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.batch.results import Results
from deploy.batch.storage import BatchJobError


def write_captions(path: Path, *images: str) -> None:
    pq.write_table(pa.table({"image": list(images), "error_type": [None] * len(images)}), path)


@pytest.fixture
def results(tmp_path) -> Results:
    """Three files: one with a row of another, and an incomplete one."""
    results = Results(str(tmp_path / "captions"), {"model": "sha256:1"})
    directory = tmp_path / "captions"
    assert results.load_done() == set()
    write_captions(directory / "a.parquet", "1", "2")
    write_captions(directory / "b.parquet", "2", "3")
    (directory / "c.parquet").write_bytes((directory / "a.parquet").read_bytes()[:-10])
    return results


def test_load_done_reads_complete_files_and_changes_nothing(results):
    before = {path: path.read_bytes() for path in Path(results.path).iterdir()}
    assert results.load_done() == {"1", "2", "3"}
    assert {path: path.read_bytes() for path in Path(results.path).iterdir()} == before


def test_repair_deletes_incomplete_files_and_duplicate_rows(results):
    results.repair()
    assert sorted(path.name for path in Path(results.path).iterdir()) == ["_settings.json", "a.parquet", "b.parquet"]
    assert sorted(pq.read_table(results.path)["image"].to_pylist()) == ["1", "2", "3"]
    assert results.load_done() == {"1", "2", "3"}
    assert results.outcomes() == {None: 3}


def test_results_of_other_settings_are_refused(tmp_path):
    Results(str(tmp_path / "captions"), {"model": "sha256:1", "beam_size": 3})
    Results(str(tmp_path / "captions"), {"model": "sha256:1", "beam_size": 3})
    with pytest.raises(BatchJobError, match="beam_size is 3 there and 5 here"):
        Results(str(tmp_path / "captions"), {"model": "sha256:1", "beam_size": 5})


def test_results_in_a_directory_with_other_files_are_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(BatchJobError, match="holds other files"):
        Results(str(tmp_path), {})


def test_lock_admits_one_job_at_a_time(tmp_path):
    results = Results(str(tmp_path), {})
    with results.lock(), pytest.raises(BatchJobError, match="Another job writes"), Results(str(tmp_path), {}).lock():
        pass
    with results.lock():
        pass

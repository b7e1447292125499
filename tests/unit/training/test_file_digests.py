"""Digests of files are computed once, and again if a file changes."""

import hashlib
import os

import pytest

from training.data import file_digests
from training.data.file_digests import FileDigests


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{i}.jpg" for i in range(200)]
    for i, path in enumerate(paths):
        path.write_bytes(b"%03d" % i)
    return paths


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read."""
    names, original = [], file_digests._sha256

    def counting(path):
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(file_digests, "_sha256", counting)
    return names


def expected(paths):
    return [hashlib.sha256(path.read_bytes()).digest() for path in paths]


def test_digest_all_reads_files_once_and_then_a_sample(paths, read, tmp_path):
    assert FileDigests(tmp_path / "store.json").digest_all(paths) == expected(paths)
    assert len(read) == 200
    read.clear()
    assert FileDigests(tmp_path / "store.json").digest_all(paths) == expected(paths)
    assert len(read) == 67  # each third of 200, since 200 // 64 = 3


def test_digest_all_reads_a_changed_file_again(paths, read, tmp_path):
    FileDigests(tmp_path / "store.json").digest_all(paths)
    paths[1].write_bytes(b"other")
    read.clear()
    assert FileDigests(tmp_path / "store.json").digest_all(paths) == expected(paths)
    assert read.count("1.jpg") == 1
    assert len(read) < 80


def test_digest_all_reads_all_files_if_one_of_the_sample_differs(paths, read, tmp_path):
    """Other content under the same size and time, as a copy with kept times has."""
    FileDigests(tmp_path / "store.json").digest_all(paths)
    for path in paths:
        status = path.stat()
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert FileDigests(tmp_path / "store.json").digest_all(paths) == expected(paths)


def test_digest_all_damaged_store_is_replaced(paths, tmp_path):
    (tmp_path / "store.json").write_text('{"a')
    assert FileDigests(tmp_path / "store.json").digest_all(paths) == expected(paths)

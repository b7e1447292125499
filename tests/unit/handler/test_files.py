"""Atomic writes leave the previous file on failure; locks exclude other processes."""

import subprocess
import sys

import pytest

from handler.files import LockedError, atomic_write, atomic_write_text, exclusive_lock

HOLD_LOCK = """
import sys
from pathlib import Path
from handler.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_atomic_write_replaces_the_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_atomic_write_keeps_the_old_file_on_failure(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write():
        with atomic_write(path) as partial:
            partial.write_bytes(b"ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_text_writes_utf8(tmp_path):
    atomic_write_text(tmp_path / "a.txt", "naïve\n")
    assert (tmp_path / "a.txt").read_bytes() == b"na\xc3\xafve\n"


def test_exclusive_lock_excludes_another_process_until_it_ends(tmp_path):
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLD_LOCK, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        for timeout in (0, 0.2):
            with pytest.raises(LockedError, match="Another process holds"), exclusive_lock(path, timeout):
                pass
        holder.stdin.close()
        with exclusive_lock(path):
            pass
    with exclusive_lock(path, timeout=0):
        pass
